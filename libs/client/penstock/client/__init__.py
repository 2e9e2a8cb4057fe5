"""The Python client and the command line."""

from penstock.client.client import Penstock as Penstock
from penstock.client.settings import ClientSettings as ClientSettings
from penstock.contracts.errors import PenstockError as PenstockError
