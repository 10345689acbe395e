"""The error that a client gets: a status of HTTP and one sentence."""


class RefusedRequest(Exception):
    """A request without a result.

    Attributes:
      status: of HTTP.
      sentence: for the client.
      retry_after: seconds after which the client may try again, or None.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after
