"""A mail server for the tests: aiosmtpd, which `./x test` installs.

    smtp_server.py FOLDER plain|starttls|tls [--login USER:PASSWORD] [--cert FILE --key FILE]

Prints its port. Keeps each mail as FOLDER/N.eml, as it came, and its envelope as FOLDER/N.json. Ends with its standard input,
so that it outlives no test.
"""

import argparse
import asyncio
import json
import logging
import os
import ssl
import sys
import warnings

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

# aiosmtpd warns of a login without TLS, which on loopback is what is tested.
warnings.simplefilter("ignore")
logging.getLogger("mail.log").setLevel(logging.ERROR)


class Keep:
    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        name = os.path.join(self.folder, f"{self.count:04}")
        about = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": server.transport.get_extra_info("sslcontext") is not None}
        with open(name + ".json", "w") as file:
            json.dump(about, file)
        with open(name + ".part", "wb") as file:
            file.write(envelope.original_content)
        os.rename(name + ".part", name + ".eml")
        return f"250 2.0.0 Ok: queued as {self.count:04}"


def check_of(login):
    def check(server, session, envelope, mechanism, given):
        user, password = login.split(":", 1)
        good = isinstance(given, LoginPassword) and (given.login, given.password) == (user.encode(), password.encode())
        # handled=False: aiosmtpd answers; without it nobody would.
        return AuthResult(success=good, handled=False)

    return check


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("mode", choices=["plain", "starttls", "tls"])
    parser.add_argument("--login")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    args = parser.parse_args()
    context = None
    if args.mode != "plain":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(args.cert, args.key)
    keep = Keep(args.folder)
    loop = asyncio.get_running_loop()

    def session():
        return SMTP(
            keep,
            loop=loop,
            hostname="mail.test",
            enable_SMTPUTF8=False,
            tls_context=context if args.mode == "starttls" else None,
            require_starttls=args.mode == "starttls",
            authenticator=check_of(args.login) if args.login else None,
            auth_required=bool(args.login),
            # Under TLS from the first byte aiosmtpd does not see the TLS.
            auth_require_tls=False,
        )

    server = await loop.create_server(session, "127.0.0.1", 0, ssl=context if args.mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    # Sessions that are still open are nobody's.
    os._exit(0)


asyncio.run(main())
