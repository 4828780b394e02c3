"""What EC2 refuses, in its own words."""

from __future__ import annotations


class Ec2Refusal(Exception):
    """An EC2 error response.

    Attributes:
        code: EC2's error code, such as `InsufficientInstanceCapacity`.
        message: EC2's message to the caller.
        status: The HTTP status of the response.
    """

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
