"""The edge: HTTP in, the domain's words out. Only functions import this; pydantic stays in here."""
