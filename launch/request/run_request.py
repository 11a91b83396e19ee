"""The options of `edgelaunch PLAN`: one rank of a run, or with --local or --emulate all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address, read_port
from edgelaunch.common.items import DEFAULT_ITEMS, STDIN, OnBadItem, WhenFull
from edgelaunch.request.option_fields import Reach, option, plan_argument
from edgelaunch.request.start_request import StartRequest

__all__ = ["RunRequest"]

DATA = "data, on rank 0"
TEXT = "text generation, on rank 0"
MAX_RATE_PER_S = 1e6


@dataclass(frozen=True, kw_only=True)
class RunRequest(StartRequest):
    """Raises UserError where a value is out of its range, or two of them do not go together."""

    plan_path: Path = field(metadata=plan_argument("plan.yaml, written by edgecompile"))
    input: Path | None = field(default=None, metadata=option(
        "--input", Path, reach=Reach.DATA_HOST, group=DATA, metavar="PATH",
        help=".npy .npz .safetensors .txt .jsonl .tsv, an image, a folder of images, or - for "
        "standard input: a line a sentence or image path, or JSON with an array by input name"))  # fmt: skip
    rate: float | None = field(default=None, metadata=option(
        "--rate", float, reach=Reach.DATA_HOST, group=DATA, metavar="R",
        help="feed R items a second, whether results keep up or not"))  # fmt: skip
    when_full: WhenFull | None = field(default=None, metadata=option(
        "--when-full", WhenFull, reach=Reach.DATA_HOST, group=DATA, metavar="POLICY",
        help="wait (default) or drop-oldest: what to do with live items that the pipeline cannot take"))  # fmt: skip
    on_bad_item: OnBadItem | None = field(default=None, metadata=option(
        "--on-bad-item", OnBadItem, reach=Reach.DATA_HOST, group=DATA, metavar="POLICY",
        help="stop (default) or gap: what to do with an image or a line that cannot be read; a gap is an `error` in a "
        ".jsonl, NaN (or 0) in arrays"))  # fmt: skip
    output: Path | None = field(default=None, metadata=option(
        "--output", Path, reach=Reach.DATA_HOST, group=DATA, metavar="PATH",
        help="results as .npy, .npz or .jsonl"))  # fmt: skip
    resume: bool = field(default=False, metadata=option(
        "--resume", reach=Reach.DATA_HOST, group=DATA,
        help="continue where an earlier run with the same --output stopped"))  # fmt: skip
    items: int | None = field(default=None, metadata=option(
        "--items", int, reach=Reach.DATA_HOST, group=DATA, metavar="N",
        help=f"stop after so many; without --input, default {DEFAULT_ITEMS}"))  # fmt: skip
    repeat: int | None = field(default=None, metadata=option(
        "--repeat", int, reach=Reach.DATA_HOST, group=DATA, metavar="N",
        help="read the input so often, to measure for longer than it lasts (default once)"))  # fmt: skip
    verify: bool = field(default=False, metadata=option(
        "--verify", reach=Reach.DATA_HOST, group=DATA, help="compare with the golden items of the plan"))  # fmt: skip
    prompt: str | None = field(default=None, metadata=option(
        "--prompt", str, reach=Reach.DATA_HOST, group=TEXT, metavar="TEXT",
        help="generate an answer, and print it as it comes; a model with a template of conversations is asked it, any "
        "other continues it"))  # fmt: skip
    chat: bool = field(default=False, metadata=option(
        "--chat", reach=Reach.DATA_HOST, group=TEXT, help="converse in the terminal, a line a message; the line /new "
        "begins a new conversation"))  # fmt: skip
    raw: bool = field(default=False, metadata=option(
        "--raw", reach=Reach.DATA_HOST, group=TEXT,
        help="continue the prompt as it is, without a template"))  # fmt: skip
    max_tokens: int | None = field(default=None, metadata=option(
        "--max-tokens", int, reach=Reach.DATA_HOST, group=TEXT, metavar="N",
        help="tokens of an answer at most (default 256)"))  # fmt: skip
    temperature: float = field(default=0.0, metadata=option(
        "--temperature", float, reach=Reach.DATA_HOST, group=TEXT, metavar="T",
        help="0 (default): always the most likely token"))  # fmt: skip
    top_k: int | None = field(default=None, metadata=option(
        "--top-k", int, reach=Reach.DATA_HOST, group=TEXT, metavar="N",
        help="choose among so many tokens (default 50; at most the plan's generation.candidates)"))  # fmt: skip
    top_p: float = field(default=1.0, metadata=option(
        "--top-p", float, reach=Reach.DATA_HOST, group=TEXT, metavar="P",
        help="and among those that together have this probability (default 1)"))  # fmt: skip
    repetition_penalty: float = field(default=1.0, metadata=option(
        "--repetition-penalty", float, reach=Reach.DATA_HOST, group=TEXT, metavar="R",
        help="makes tokens that were there less likely (default 1: not)"))  # fmt: skip
    seed: int = field(default=0, metadata=option(
        "--seed", int, reach=Reach.DATA_HOST, group=TEXT, metavar="N",
        help="of the choice: the same seed gives the same answer (default 0)"))  # fmt: skip
    stop: str | None = field(default=None, metadata=option(
        "--stop", str, reach=Reach.DATA_HOST, group=TEXT, metavar="TEXT",
        help="the answer ends before this"))  # fmt: skip
    json: bool = field(default=False, metadata=option(
        "--json", reach=Reach.DATA_HOST,
        help="on rank 0: one JSON object on standard output instead of tables"))  # fmt: skip
    run: Path | None = field(default=None, metadata=option(
        "--run", Path, reach=Reach.DATA_HOST, metavar="FILE",
        help="on rank 0: the run's record for edgeplan report (default: run.json by the plan)"))  # fmt: skip
    metrics_port: Address | None = field(default=None, metadata=option(
        "--metrics-port", partial(read_port, "--metrics-port"), reach=Reach.DATA_HOST, metavar="[ADDR:]PORT",
        help="serve this rank's counters to Prometheus there"))  # fmt: skip
    web: Address | None = field(default=None, metadata=option(
        "--web", partial(read_port, "--web"), reach=Reach.DATA_HOST, metavar="[ADDR:]PORT",
        help="on rank 0: a live page of the run there (default: for this machine alone)"))  # fmt: skip
    web_fd: int | None = field(default=None, metadata=option(
        "--web-fd", int, why="the parent gives rank 0 the socket of its page"))  # fmt: skip
    api_key_file: Path | None = field(default=None, metadata=option(
        "--api-key-file", Path, reach=Reach.DATA_HOST, metavar="FILE",
        help="with --web: the key that the page asks for, else $EDGELAUNCH_API_KEY, else none"))  # fmt: skip

    def __post_init__(self) -> None:
        for name, value in (("items", self.items), ("repeat", self.repeat), ("max-tokens", self.max_tokens)):
            if value is not None and value < 1:
                raise UserError(f"invalid value {value} for --{name}: expected 1 or more")
        if self.rate is not None and not 0 < self.rate <= MAX_RATE_PER_S:
            raise UserError(
                f"invalid value {self.rate:g} for --rate: expected a number greater than 0, at most {MAX_RATE_PER_S:g}"
            )
        self.check_ways()
        if self.resume and (self.live or (self.output is None and self.has_data_host)):
            raise UserError("--resume continues an --output, with the same --input as before: a file or a folder")
        if self.repeat is not None and (self.from_stdin or (self.input is None and self.has_data_host)):
            raise UserError("--repeat reads an --input again: a file or a folder")
        if self.when_full is not None and not self.live:
            raise UserError("--when-full is for live items: give --rate R, or --input - for standard input")
        if self.drops_oldest and self.output is not None and not self.output.name.lower().endswith(".jsonl"):
            raise UserError("cannot hold the items' numbers, which --when-full drop-oldest needs",
                            key=str(self.output), fix="use a .jsonl file")  # fmt: skip

    @property
    def has_data_host(self) -> bool:
        """Whether rank 0 is started; where nothing says which rank this is, it may be."""
        return self.all_ranks or not self.rank

    @property
    def from_stdin(self) -> bool:
        return self.input == Path(STDIN)

    @property
    def live(self) -> bool:
        """Whether items come as time goes by, and do not come again."""
        return self.rate is not None or self.from_stdin

    @property
    def drops_oldest(self) -> bool:
        return self.when_full is WhenFull.DROP_OLDEST
