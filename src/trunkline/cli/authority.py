"""``trunkline authority``: make a realm, serve its directory, renew and retire its keys, check the whole log."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline.cli.common import Common, more_descriptors, run, run_service
from trunkline.cli.realm import AuthorityAt, Yes, confirm, day, directory, root_signer
from trunkline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trunkline.authority.certificates import Anchor
    from trunkline.drivers.audit import Report
    from trunkline.drivers.authority_home import AuthorityHome
    from trunkline.drivers.authority_server import Server
    from trunkline.names import Address, Secret

ANYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound to here

_ID: Final = 16
"""Characters of a key's id that are shown: as many as logs and errors show."""

AdminDir = Annotated[
    Path | None,
    typer.Option("--admin-dir", metavar="DIR", help="Where the root's key is, a stick perhaps. [HOME/admin]"),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="sqlite:PATH or postgresql://USER@HOST/DATABASE. [in the home]"),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]

authority = typer.Typer(
    name="authority",
    help="Make a realm, serve its directory of keys, check it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@authority.command()
def init(
    ctx: typer.Context,
    realm: Annotated[str, typer.Argument(metavar="REALM", help="Its name: a-z 0-9 . _ -, like lab.example.")],
    admin_dir: AdminDir = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="The authority is authority/NAME.")] = "main",
    listen: Annotated[
        list[str] | None, typer.Option(metavar="H:P", help="Where `serve` is to listen. [127.0.0.1:7118]")
    ] = None,
    store: StoreOption = None,
    root_only: Annotated[
        bool, typer.Option("--root-only", help="Make the root alone: the authority is on another machine.")
    ] = False,
    root: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The root's certificate, made elsewhere with --root-only.")
    ] = None,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --root: write a request there, for `sign`.")
    ] = None,
) -> None:
    """Make a realm: the administrator's root key, and an authority that the root certifies.

    The root's key approves users. It can be kept away from every network: make it where it is to stay, carry the
    authority's request to it and the certificate back.

    \b
    Examples:
      trunkline authority init lab.example                        all on this machine
      trunkline authority init lab.example --root-only --admin-dir /media/stick
      trunkline authority init lab.example --root root.pem --request main.csr
      trunkline authority sign main.csr --out main.pem --admin-dir /media/stick
      trunkline authority renew --certificate main.pem
    """
    from trunkline.authority.certificates import fingerprint_text, parse_root
    from trunkline.drivers.authority_home import DEFAULT_PORT, Settings, certificates_pem, read_certificates
    from trunkline.names import Address
    from trunkline.users import check_realm

    common: Common = ctx.obj
    home = _home(common, admin_dir)
    check_realm(realm)
    at = tuple(str(Address.parse(text, DEFAULT_PORT)) for text in listen or ())
    settings = Settings(name=name, store=store or "", **({"listen": at} if at else {}))
    if (home.folder / "intermediate.pem").exists():
        raise ConfigError(f"there is an authority in {home.folder} already: renew it, or name another --home")
    if (root is None) != (request is None) or (root is not None and root_only):
        raise ConfigError("--root and --request go together, and without --root-only: the root is made elsewhere")
    if root is not None and request is not None:
        anchor = parse_root(read_certificates(root)[0])
        _check_name(anchor.realm, realm)
        _write(request, _request_pem(home.make_request(settings)))
        (home.folder / "root.pem").write_bytes(certificates_pem((anchor.certificate,)))
        common.tell(f"the request of authority/{name} is in {request}: have the root sign it,")
        common.tell(f"  trunkline authority sign {request} --out {name}.pem --admin-dir DIR")
        common.tell(f"and install what comes of it: trunkline authority renew --certificate {name}.pem")
        return
    passphrase = _passphrase()
    if (home.admin / "root.pem").exists():
        anchor = home.admin_root()  # made before, with --root-only or by a call that was interrupted
        _check_name(anchor.realm, realm)
    else:
        anchor = home.create_root(realm, time.time(), passphrase)
    if not root_only:
        certificate = home.sign_request(home.make_request(settings), time.time(), passphrase)
        home.install(certificate, time.time(), anchor.certificate)
        _create_store(home, store)
        _join(home, anchor, settings.listen)
    common.tell(f"realm {realm}")
    common.tell(f"fingerprint {fingerprint_text(anchor.key_id)}")
    common.tell(f"the root's key is in {home.admin}: whoever has it decides who is who; keep a copy off line")
    if not root_only:
        common.tell("start it with `trunkline authority serve`")


@authority.command()
def serve(
    ctx: typer.Context,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="H:P", help="Where to listen; may be repeated; port 0 for any free one. [127.0.0.1:7118]"),
    ] = None,
    store: StoreOption = None,
    replica_of: Annotated[
        str | None, typer.Option(metavar="H:P", help="Follow that authority, and answer everything but writes.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="U", help="Of a replica: whose certificate it shows; the key is in the home.")
    ] = None,
    max_clients: Annotated[int, typer.Option(metavar="N", min=1, help="Most connections at once.")] = 1024,
    metrics: Annotated[str | None, typer.Option(metavar="H:P", help="Serve /metrics for Prometheus there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON where it listens.")] = False,
) -> None:
    """Serve the directory.

    It writes one line when it listens, and then a line on stderr for each statement. SIGTERM ends it; so may
    anything else: whatever it has answered is on disk.

    \b
    Examples:
      trunkline authority serve --listen 10.0.0.1:7118
      trunkline authority serve --listen 10.0.0.2:7118 --replica-of 10.0.0.1:7118 --user ops/replica2
    """
    from trunkline.drivers.authority_aio import AuthorityServer
    from trunkline.drivers.disk import open_store

    common: Common = ctx.obj
    home = _home(common)
    if (replica_of is None) != (user is None):
        raise ConfigError("--replica-of and --user go together: a replica shows the certificate of who runs it")
    if replica_of is not None and user is not None:
        make_replica = _replica(home, replica_of, user, listen, store, max_clients)
        _serve(common, make_replica, metrics=metrics, as_json=as_json)
        return
    loaded = home.load()
    at = _listen(listen or loaded.settings.listen)
    where = store or loaded.settings.store or home.store
    fingerprint = loaded.issuer.fingerprint

    def make() -> "Server":
        return AuthorityServer(loaded, lambda: open_store(where, fingerprint), listen=at, max_clients=max_clients)

    _serve(common, make, metrics=metrics, as_json=as_json)


@authority.command()
def renew(
    ctx: typer.Context,
    admin_dir: AdminDir = None,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a request there: the root's key is elsewhere.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Install what the root made of the request.")
    ] = None,
) -> None:
    """Give the authority a new key, certified by the root for a year. Restart it afterwards.

    Certificates that the old key signed stay good until they expire.

    \b
    Examples:
      trunkline authority renew
      trunkline authority renew --request main.csr
      trunkline authority renew --certificate main.pem
    """
    from trunkline.drivers.authority_home import read_certificates

    common: Common = ctx.obj
    home = _home(common, admin_dir)
    if request is not None and certificate is not None:
        raise ConfigError("--request is the first step and --certificate the last: `sign` comes between them")
    if request is not None:
        _write(request, _request_pem(home.make_request()))
        common.tell(f"the request is in {request}: have the root sign it with `trunkline authority sign`")
        return
    if certificate is not None:
        anchor = home.install(read_certificates(certificate)[0], time.time())
    else:
        made = home.sign_request(home.make_request(), time.time(), _passphrase())
        anchor = home.install(made, time.time())
    _create_store(home, None)
    until = time.strftime("%Y-%m-%d", time.gmtime(anchor.not_after))
    common.tell(f"the authority signs with the key {anchor.key_id.hex()[:16]} until {until}, once it is started anew")


@authority.command()
def retire(
    ctx: typer.Context,
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="Its id, or how that begins; none: list the keys.", show_default=False),
    ] = None,
    admin_dir: AdminDir = None,
    yes: Yes = False,
    at: AuthorityAt = None,
) -> None:
    """Have a key of an authority believed no more, because it was stolen or got lost. That can't be undone.

    Heads and certificates that it signed are refused by everybody who has fetched the next head. The authority has to
    sign with another key by then: renew it and start it anew first. Afterwards start other programs anew.

    \b
    Examples:
      trunkline authority retire                  the keys, and until when they are good
      trunkline authority retire 3f9a52c18e07d6b4
    """
    common: Common = ctx.obj
    root = root_signer(common, admin_dir) if key is not None else None
    with directory(common, at) as asked:
        asked.refresh()
        known = {anchor.key_id.hex(): anchor for anchor in asked.authorities()}
        if key is None or root is None:
            for text, anchor in known.items():
                common.tell(f"{text[:_ID]}  until {day(anchor.not_after)}")
            return
        found = [text for text in known if text.startswith(key.lower())]
        if len(found) != 1:
            raise ConfigError(
                f"{len(found)} of the authority's keys begin with {key!r}: `trunkline authority retire` lists them"
            )
        if confirm(f"Is the authority's key {found[0][:_ID]} never to be believed again?", yes=yes):
            asked.retire_key(bytes.fromhex(found[0]), root)
            common.tell(f"the key {found[0][:_ID]} is retired")


@authority.command()
def sign(
    ctx: typer.Context,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="What `init` or `renew` wrote.")],
    out: Out,
    admin_dir: AdminDir = None,
) -> None:
    """Certify an authority with the root's key; no network is needed.

    \b
    Examples:
      trunkline authority sign main.csr --out main.pem --admin-dir /media/stick
    """
    from trunkline.authority.certificates import parse_intermediate
    from trunkline.drivers.authority_home import certificates_pem

    common: Common = ctx.obj
    home = _home(common, admin_dir)
    made = home.sign_request(_read_request(request), time.time(), _passphrase())
    anchor = parse_intermediate(made, home.admin_root())
    _write(out, certificates_pem((made,)))
    common.tell(f"the key {anchor.key_id.hex()[:16]} may sign for {anchor.realm}; its certificate is in {out}")


@authority.command()
def verify(
    ctx: typer.Context,
    source: Annotated[
        str | None, typer.Option("--from", metavar="H:P", help="An authority or a replica to fetch it from.")
    ] = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Replay the whole log and check everything: each signature, each rule, both Merkle roots, the signed head.

    Without --from it reads the store itself, which may be in use, and compares its records as well.

    \b
    Examples:
      trunkline authority verify
      trunkline authority verify --from 10.0.0.1:7118
    """
    from trunkline.authority.certificates import fingerprint_text
    from trunkline.drivers.audit import Audit, audit_remote, audit_store
    from trunkline.drivers.authority_home import DEFAULT_PORT
    from trunkline.drivers.disk import open_store
    from trunkline.drivers.upstream_aio import Upstream
    from trunkline.names import Address

    common: Common = ctx.obj
    home = _home(common)
    root = home.root()
    with Audit(root) as audit:
        if source is not None:
            upstream = Upstream(Address.parse(source, DEFAULT_PORT), root)

            async def fetched() -> "Report":
                async with upstream:
                    return await audit_remote(upstream, audit)

            report = run(fetched())
        else:
            loaded = home.load()
            where = store or loaded.settings.store or home.store
            with open_store(where, loaded.issuer.fingerprint, write=False) as opened:
                report = audit_store(opened, loaded.authorities, audit)
    if as_json:
        common.tell_json(
            {
                "realm": report.realm,
                "fingerprint": fingerprint_text(report.fingerprint),
                "statements": report.kinds,
                "users": report.users,
                "head": {"size": report.size, "time": report.time},
                "records": report.records,
            }
        )
        return
    common.tell(f"realm {report.realm}, fingerprint {fingerprint_text(report.fingerprint)}")
    common.tell(f"{report.size} statements follow the rules and are signed: {_counted(report.kinds)}")
    common.tell(f"users: {_counted(report.users)}")
    common.tell("the roots of log and map are those of the signed head")
    if report.records:
        common.tell(f"{report.records} records are what the log comes to")


def _replica(
    home: "AuthorityHome", of: str, user: str, listen: list[str] | None, store: str | None, max_clients: int
) -> "Callable[[], Server]":
    from trunkline.authority.certificates import parse_root
    from trunkline.drivers.authority_home import DEFAULT_PORT
    from trunkline.drivers.disk import open_store
    from trunkline.drivers.realm_home import RealmHome
    from trunkline.drivers.replica_aio import ReplicaServer
    from trunkline.names import Address

    member, root = RealmHome(home.path), home.root()
    fingerprint = parse_root(root).key_id
    where = store or home.folder / "replica.sqlite"
    return lambda: ReplicaServer(
        root,
        lambda: open_store(where, fingerprint, create=True),
        Address.parse(of, DEFAULT_PORT),
        user,
        member.load_key(user),
        evidence=home.folder,
        credential=member.load_credential(user),
        keep=lambda credential: member.keep_credential(user, credential),
        listen=_listen(listen or home.settings().listen),
        max_clients=max_clients,
    )


def _serve(common: Common, make: "Callable[[], Server]", *, metrics: str | None, as_json: bool) -> None:
    from trunkline.cli.metrics import check_metrics

    if metrics is not None:
        check_metrics()
    common.start_logs(logging.INFO)
    more_descriptors()
    run_service(_serving(common, make, metrics, as_json=as_json))


async def _serving(common: Common, make: "Callable[[], Server]", metrics: str | None, *, as_json: bool) -> None:
    from trunkline.cli.metrics import authority_metrics, serving_metrics

    async with make() as server, serving_metrics(lambda: authority_metrics(server), metrics):
        bound = [str(address) for address in server.bound]
        if as_json:
            common.tell_json({"event": "listening", "kind": server.kind, "listen": bound})
        else:
            common.tell(f"{server.kind} listens on {', '.join(bound)}")
        await server.serve_forever(signals=())


def _home(common: Common, admin: Path | None = None) -> "AuthorityHome":
    from trunkline.drivers.authority_home import AuthorityHome
    from trunkline.drivers.home import Home

    return AuthorityHome(Home(common.home).path, admin)


def _create_store(home: "AuthorityHome", store: str | None) -> None:
    from trunkline.drivers.disk import open_store

    loaded = home.load()
    where = store or loaded.settings.store or home.store
    open_store(where, loaded.issuer.fingerprint, create=True, write=False).close()


def _join(home: "AuthorityHome", anchor: "Anchor", listen: "tuple[str, ...]") -> None:
    """Make the home a member's too, so that the administrator's commands find the authority."""
    from trunkline.authority.certificates import fingerprint_text
    from trunkline.drivers.authority_home import DEFAULT_PORT
    from trunkline.drivers.realm_home import RealmHome, RealmSettings
    from trunkline.names import Address

    member = RealmHome(home.path)
    if member.has_realm:
        return
    at = [Address.parse(text, DEFAULT_PORT) for text in listen]
    dialled = [Address("127.0.0.1", each.port) if each.host in ANYWHERE else each for each in at]
    settings = RealmSettings(anchor.realm, fingerprint_text(anchor.key_id), tuple(map(str, dialled)))
    member.join(anchor.certificate, settings)


def _passphrase() -> "Secret | None":
    import os

    from trunkline.names import Secret

    text = os.environ.get("TRUNKLINE_PASSPHRASE")
    return Secret(text.encode()) if text else None


def _listen(texts: "list[str] | tuple[str, ...]") -> "list[Address]":
    from trunkline.drivers.authority_home import DEFAULT_PORT
    from trunkline.names import Address

    return [Address.parse(text, DEFAULT_PORT) for text in texts]


def _check_name(found: str, wanted: str) -> None:

    if found != wanted:
        raise ConfigError(f"that root is of the realm {found!r}, not of {wanted!r}")


def _request_pem(request: bytes) -> bytes:
    import base64

    text = base64.encodebytes(request).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n".encode()


def _read_request(file: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_csr

    try:
        return load_pem_x509_csr(file.read_bytes()).public_bytes(Encoding.DER)
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"{file} is no request: make one with `trunkline authority renew --request FILE`") from None


def _write(file: Path, data: bytes) -> None:

    try:
        file.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}") from error


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none"
