pytest_plugins = ["penstock.testing.plugin"]
