"""The clients' table: tenants."""

from __future__ import annotations

from botocore.exceptions import ClientError
from pynamodb.attributes import UnicodeAttribute
from pynamodb.exceptions import PutError
from pynamodb.models import Model

from spot_optimizer.adapters.database import BoundTable, Database, Index, InstantAttribute, Page
from spot_optimizer.adapters.sessions import error_code
from spot_optimizer.domain.clients import Client
from spot_optimizer.errors import ClientUnknown

LISTING = "client"
LISTING_INDEX = Index("listing-index", "listing", "client_id")


class ClientRow(Model):
    """One client; attributes are those of `Client`, and `listing`, which puts all clients under one key of an index."""

    client_id = UnicodeAttribute(hash_key=True)
    listing = UnicodeAttribute()
    name = UnicodeAttribute()
    created_at = InstantAttribute()


class DynamoClients:
    """The tenants."""

    def __init__(self, database: Database, table_name: str) -> None:
        self._table = BoundTable(
            database,
            table_name,
            row=ClientRow,
            value=Client,
            indexes=(LISTING_INDEX,),
            constants={"listing": LISTING},
        )

    def create(self, client: Client) -> Client:
        """Create a client, or find it: a repeated request gets the client that the first one made."""
        try:
            self._table.put(client, only_if=self._table.path("client_id").does_not_exist())
        except PutError as error:
            if not isinstance(error.cause, ClientError) or error_code(error.cause) != "ConditionalCheckFailedException":
                raise
            return self.get(client.client_id)
        return client

    def get(self, client_id: str) -> Client:
        """Raises: ClientUnknown."""
        client = self._table.get(client_id)
        if client is None:
            raise ClientUnknown(f"no client '{client_id}'")
        return client

    def page(self, *, after: str | None, limit: int) -> Page[Client]:
        """One page of all clients, by id."""
        return self._table.page(LISTING_INDEX, LISTING, after=after, limit=limit)
