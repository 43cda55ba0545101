"""pyrad2's RadSec client, in a process of its own: ``radsec11.py PORT FOLDER VERSION USER PASSWORD`` prints the reply.

pyrad2 says it wants Python 3.12; all that it takes from there is a name in ``collections.abc``, which is given to it.
"""

import asyncio
import collections.abc
import sys

if not hasattr(collections.abc, "Buffer"):
    collections.abc.Buffer = object

from loguru import logger
from pyrad2.constants import PacketType
from pyrad2.dictionary import Dictionary
from pyrad2.radsec.client import RadSecClient
from pyrad2.radsec.v11 import RadiusVersion

logger.remove()


async def main(port: str, folder: str, version: str, user: str, password: str) -> None:
    """One Access-Request, one Accounting-Request, on one connection."""
    client = RadSecClient(
        "127.0.0.1",
        int(port),
        dict=Dictionary(folder + "/dictionary"),
        certfile=folder + "/client.pem",
        keyfile=folder + "/client.key",
        certfile_server=folder + "/ca.pem",
        check_hostname=False,
        timeout=20,
        retries=1,
        radius_versions=(RadiusVersion.V1_1,) if version == "1.1" else (RadiusVersion.V1_0,),
    )
    async with client:
        request = client.create_auth_packet(User_Name=user)
        request.set_obfuscated("User-Password", password)
        reply = await client.send_packet(request)
        print(client._negotiated_version.name, None if reply is None else PacketType(reply.code).name)
        start = client.create_acct_packet(User_Name=user)
        start["Acct-Status-Type"] = 1
        start["Acct-Session-Id"] = "pyrad2-" + version
        reply = await client.send_packet(start)
        print(None if reply is None else PacketType(reply.code).name)


asyncio.run(main(*sys.argv[1:]))
