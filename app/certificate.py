"""The certificate of a server that speaks HTTPS, tried out before it serves."""

import ssl
from pathlib import Path


def certificate_problem(certificate: Path | None, key: Path | None) -> str | None:
    """What is wrong with a certificate chain and its private key, in a sentence; None when they can be used.

    Without a file for the key, it is looked for behind the certificate.
    """
    if certificate is None:
        return None if key is None else "--ssl-keyfile needs its certificate: give --ssl-certfile too"
    try:
        # Nobody could type the password of a server that starts by itself; without this, OpenSSL would ask for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        files = f"{certificate} and {key}" if key else f"{certificate} (which holds the key too, without --ssl-keyfile)"
        return f"{files} cannot be used for HTTPS: {error}; both must be PEM, belong together and need no password"
    return None
