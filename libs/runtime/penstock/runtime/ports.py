"""Default ports on one machine of what is no service; a service's stands in its row of
`penstock.contracts.services`. The stack takes others only on a clash, and tells every service by
settings.
"""

from typing import Final

KAFKA: Final = 9092
DOOR: Final = 9080  # Envoy: the one address for clients
SITES: Final = 9443  # Envoy: the one address for edge sites
SITE: Final = 9195  # A site, of programs beside it
TRITON_METRICS: Final = 9192
