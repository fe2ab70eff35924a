"""`zerogate serve`: an OpenAI-compatible server for one base and many adapters. The work is in `zerogate.serving`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from zerogate.cli import options
from zerogate.errors import UserError

EPILOG = """[bold]Examples[/]

zerogate serve

zerogate serve --base pocket --adapters runs

zerogate serve -a fox=runs/fox -a sums=runs/sums --port 8080

zerogate serve --demo --ui     (then open http://127.0.0.1:8000/ui)

ZEROGATE_API_KEY=secret zerogate serve --adapters runs --host 0.0.0.0

zerogate serve --adapters runs --replicas 4

Then any client of OpenAI's interface: the base is http://127.0.0.1:8000/v1, and `model` names the base or an adapter.
"""


def serve(
    base: options.Base = None,
    adapters: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A folder of adapters, each in a folder of its own; loaded when first asked for."
        ),
    ] = None,
    adapter: options.Adapters = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Serve the demo's adapter, runs/demo; it is trained first if need be.")
    ] = False,
    preload: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Load this adapter at the start and keep it; may be given several times."),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen. 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ZEROGATE_API_KEY",
            help="Ask for a key; may be given several times. The variable keeps it out of the list of processes.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Let pages of this site call the server. None may.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, max=4096, help="Most answers under way at the same time.")] = 256,
    queue: Annotated[int, typer.Option(min=1, help="Most requests under way and waiting; more get status 429.")] = 1024,
    step_tokens: Annotated[
        int | None, typer.Option(min=16, help="Most tokens in one step; long prompts are read in parts.")
    ] = None,
    cache_memory: Annotated[
        float | None, typer.Option(metavar="GIB", help="Memory for keys and values. 0.5 on a CPU.")
    ] = None,
    adapter_memory: Annotated[
        float, typer.Option(metavar="GIB", help="Memory for adapters. The least recently used go first.")
    ] = 1.0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds an answer may take.")] = 600.0,
    max_body: Annotated[float, typer.Option(metavar="MIB", help="Largest request.")] = 16.0,
    max_images: Annotated[int, typer.Option(min=0, help="Most images in one request.")] = 16,
    farewell: Annotated[
        int, typer.Option(min=0, help="Seconds that answers get to finish on Ctrl-C or SIGTERM.")
    ] = 120,
    ui: Annotated[bool, typer.Option("--ui", help="Also serve a web page at /ui: chat, arena, gates, tables.")] = False,
    tables: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="With --ui: show what `zerogate compare` wrote here, or below it."),
    ] = None,
    persona: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="With --ui: a persona of yours, a YAML file.")
    ] = None,
    ui_folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With --ui: where votes, presets and personas are kept."),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Processes that serve, each with a model of its own and a GPU if there are any."
        ),
    ] = 1,
    ray_address: options.RayAddress = None,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    quantization: options.Quantization = None,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Serve a base and its adapters over OpenAI's HTTP interface.

    Requests for different adapters, and for the base, share every step of the
    batch. Ctrl-C ends the server when the answers under way are done.
    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"`zerogate serve` needs {', '.join(missing)}: pip install 'zerogate[serve]'")
    if ui and importlib.util.find_spec("gradio") is None:
        raise UserError("`zerogate serve --ui` needs gradio: pip install 'zerogate[serve,ui]'")
    for name, given in (("--tables", tables), ("--persona", persona), ("--ui-folder", ui_folder)):
        if given and not ui:
            raise UserError(f"{name} is for the web page: add --ui")
    many = options.many(replicas, ray_address)
    if many and ui:
        raise UserError(
            "--ui is for one server: leave out --replicas and --ray-address, or start a second server for it"
        )
    sizes = {"--cache-memory": cache_memory, "--adapter-memory": adapter_memory, "--max-body": max_body}
    for name, size in sizes.items():
        if size is not None and not 0 < size < 2**20:
            raise UserError(f"{name} must be above 0, not {size}")
    keys = [key for text in api_key or [] for key in text.split() if key]
    if adapters is not None and not adapters.is_dir():
        raise UserError(f"the folder of adapters {adapters} does not exist")
    named = options.named_adapters(adapter)
    if demo:
        from rich.console import Console

        from zerogate.cli.demo import demo_run

        named.setdefault("demo", demo_run(Console(stderr=True, highlight=False, soft_wrap=True)))
    from zerogate.bases.adapted import base_for
    from zerogate.serving import server
    from zerogate.serving.api import Limits
    from zerogate.serving.guard import accepted_hosts

    gated: tuple[str, ...] = ()
    if ui:
        from zerogate.page.mount import GATED, PageSettings, mount_page

        gated = GATED
    settings = server.Settings(
        base=base_for(named, base) if named else base or _base_of(adapters),
        options=_options(dtype, device, quantization, allow_pickle),
        folder=adapters,
        adapters=named,
        preload=preload or [],
        host=host,
        port=port,
        streams=streams,
        queue=queue,
        step_tokens=step_tokens,
        cache_bytes=None if cache_memory is None else int(cache_memory * 2**30),
        adapter_bytes=int(adapter_memory * 2**30),
        limits=Limits(body=int(max_body * 2**20), answer=timeout, images=max_images),
        keys=keys,
        origins=cors or [],
        gated=gated,
        hosts=accepted_hosts(host, keys, cors or []),
        farewell=farewell,
    )
    from rich.console import Console

    with server.open_socket(host, port) as sock:

        def ready(models: Sequence[str], broken: Sequence[tuple[str, str]]) -> None:
            _tell(models, broken, server.address(sock), host, bool(keys), ui)

        if many:
            from zerogate.serving import replicas as several

            several.run(settings, replicas, ray_address, sock, ready)
            return
        with Console(stderr=True).status("Loading ..."):
            service, app = server.build(settings)
            if ui:
                folder = (ui_folder or _state_folder()).expanduser()
                page = PageSettings(folder, persona or [], tables or [], keys, settings.limits)
                mount_page(app, service, page)
        server.run(service, app, settings, sock, lambda: ready(service.models(), server.not_served(service)))


def _options(
    dtype: str, device: str | None, quantization: options.Quantized | None, allow_pickle: bool
) -> dict[str, object]:
    return {"dtype": dtype, "device": device, "quantization": quantization, "allow_pickle": allow_pickle}


def _base_of(adapters: Path | None) -> str:
    """The base that most adapters of a folder record; the others are then reported as made for another."""
    from collections import Counter

    from zerogate.bases.adapted import read_adapter

    found: Counter[str] = Counter()
    for folder in sorted(adapters.iterdir()) if adapters is not None else []:
        try:
            recorded = read_adapter(folder).base
        except (UserError, OSError):
            continue
        found.update([recorded] if recorded else [])
    return found.most_common(1)[0][0] if found else "pocket"


def _state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "zerogate" / "page"


def _tell(models: Sequence[str], broken: Sequence[tuple[str, str]], url: str, host: str, keyed: bool, ui: bool) -> None:
    """What someone who has just started a server wants to know."""
    shown = ", ".join(models[:8]) + (f" and {len(models) - 8} more" if len(models) > 8 else "")
    page = f"\n  {url}/ui        the page" if ui else ""
    print(f"zerogate serves {shown}\n{page}\n  {url}/v1        (what there is: {url}/docs)\n")
    example = models[1] if len(models) > 1 else models[0]
    key = ' -H "Authorization: Bearer $ZEROGATE_API_KEY"' if keyed else ""
    body = f'{{"model": "{example}", "messages": [{{"role": "user", "content": "Where does the fox live?"}}]}}'
    print(
        f"  curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' \\\n    -d '{body}'\n", flush=True
    )
    for name, problem in broken:
        print(f"not served: {name}: {problem}", file=sys.stderr)
    from zerogate.serving.guard import is_loopback

    if not is_loopback(host) and not keyed:
        print("warning: other machines can reach this server, and it asks for no key (--api-key)", file=sys.stderr)
    sys.stderr.flush()
