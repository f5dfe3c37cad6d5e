"""The hooked model: tokens in, logits and captured activations out, with edits on the way."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from workbench import loading, sites
from workbench import tokens as text
from workbench.edits import Edit, Window
from workbench.errors import EditError, ModelError, PromptError, SettingError, UnknownSite
from workbench.generation import Generation, Sampling, extend
from workbench.hooking import Pass, Stop, Survey, hooked, survey
from workbench.info import ModelInfo, facts

Inputs = str | list[str] | Int[Tensor, "batch pos"] | Int[Tensor, " pos"]
Prompts = Sequence[str] | Int[Tensor, "batch pos"] | Sequence[Int[Tensor, " _"]]
"""Prompts that may be of different lengths."""


@dataclass(frozen=True, eq=False)
class Run:
    """What came of running tokens through a model: `run.logits`, and `run[site]` for each captured site."""

    tokens: Int[Tensor, "batch pos"]
    logits: Float[Tensor, "batch pos d_vocab"] | None
    """None if the run was stopped at a site."""
    activations: dict[str, Tensor] = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        """The captured sites, in the order asked for."""
        return tuple(self.activations)

    def __getitem__(self, site: str) -> Tensor:
        """The activation at a captured site, as the model went on to use it: after any edits there."""
        if site not in self.activations:
            captured = ", ".join(self.activations) or "nothing"
            raise UnknownSite(f"{site!r} was not captured in this run; captured: {captured}")
        return self.activations[site]

    def stack(self, pattern: str) -> Float[Tensor, "layer batch ..."]:
        """The captured activations that a pattern names, in the order of the layers."""
        names = sites.expand(pattern, self.sites)
        return torch.stack(
            [self.activations[site] for site in sorted(names, key=lambda name: sites.layer_of(name) or 0)]
        )


def load_model(
    source: str | Path, *, device: str | torch.device | None = "cpu", dtype: torch.dtype = torch.float32
) -> "HookedModel":
    """Load "tinytown" (bundled), a local Hugging Face directory, or a model of the Hugging Face hub.

    Only safetensors are read. `device=None` takes a GPU if there is one. Parameters are frozen, dropout is off.
    Raises `ModelError` if there is no such model or it cannot be used, `DamagedFile` if its files are broken,
    `SettingError` for a device that is not here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loading.check_device(device)
    place = loading.locate(source)
    return _take_over(loading.read_pretrained(place, device, dtype), loading.read_tokenizer(place), str(source))


def wrap_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, source: str = "custom"
) -> "HookedModel":
    """A hooked model around a *copy* of a Hugging Face model that is already in memory."""
    return _take_over(loading.private_copy(model), tokenizer, source)


def _take_over(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, source: str) -> "HookedModel":
    n_parameters = model.num_parameters()  # counted before the bridge adds its own
    hooked_model = HookedModel(loading.bridge_around(model, source), source, tokenizer)
    hooked_model.info = replace(hooked_model.info, n_parameters=n_parameters)
    return hooked_model


class HookedModel:
    """A language model that can be run with edits. Made by `load_model`, `wrap_model`, or around a TransformerBridge.

    A bridge that the caller built (`TransformerBridge.boot_native(...)`) is used as it is: its parameters keep their
    `requires_grad`, and it is left without hooks after every call.
    """

    def __init__(
        self, bridge: TransformerBridge, source: str = "custom", tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        self.bridge = bridge
        self.tokenizer = tokenizer if tokenizer is not None else bridge.tokenizer
        self.info: ModelInfo = facts(bridge, source)

    def __repr__(self) -> str:
        info = self.info
        return f"HookedModel({info.name!r}, {info.architecture}, {info.n_layers} layers, d_model {info.d_model})"

    @property
    def device(self) -> torch.device:
        return next(self.bridge.original_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.bridge.original_model.parameters()).dtype

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.bridge.W_E

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.bridge.W_U

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the architecture and of every weight: equal for equal models, wherever they were loaded from."""
        digest = hashlib.blake2b(self.info.architecture.encode(), digest_size=16)
        for name, tensor in sorted(self.bridge.original_model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @cached_property
    def _survey(self) -> Survey:
        return survey(self.bridge, self._forward)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that this model has, in the order in which it computes them."""
        return self._survey.sites

    # Tokens

    def to_tokens(self, inputs: str | list[str], prepend_bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Tokens of one text, or of several of equal length.

        `prepend_bos=None` leads with `<bos>` if the tokenizer does so by itself, as it did in training. Raises
        `PromptError` if the model has no tokenizer or the lengths differ.
        """
        texts = [inputs] if isinstance(inputs, str) else inputs
        return text.encode(self._need_tokenizer(), texts, prepend_bos).to(self.device)

    def to_string(self, tokens: Int[Tensor, " pos"] | Sequence[int]) -> str:
        """The text that tokens spell."""
        return text.decode(self._need_tokenizer(), _ids(tokens))

    def token_strings(self, tokens: Int[Tensor, " pos"] | Sequence[int]) -> list[str]:
        """The exact text of each token, leading space included; bytes that are not whole characters read `\\xe2`.

        Without a tokenizer, the numbers of the tokens.
        """
        ids = _ids(tokens)
        return [str(number) for number in ids] if self.tokenizer is None else text.token_texts(self.tokenizer, ids)

    def _need_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise PromptError(f"{self.info.name} has no tokenizer; give tokens instead of text")
        return self.tokenizer

    def check_tokens(self, inputs: Inputs) -> Int[Tensor, "batch pos"]:
        """Tokens of whatever may be run, on the model's device. Raises `PromptError` if they cannot be run."""
        tokens = inputs if isinstance(inputs, Tensor) else self.to_tokens(inputs)
        tokens = (tokens[None] if tokens.ndim == 1 else tokens).to(self.device, torch.long)
        if tokens.numel() == 0:
            raise PromptError("the prompt is empty; it needs at least one token")
        if tokens.shape[1] > self.info.n_ctx:
            raise PromptError(f"the prompt has {tokens.shape[1]} tokens; this model takes at most {self.info.n_ctx}")
        if tokens.min() < 0 or tokens.max() >= self.info.d_vocab:
            raise PromptError(f"tokens lie between 0 and {self.info.d_vocab - 1} in the vocabulary of this model")
        return tokens

    # Running

    def run(
        self,
        inputs: Inputs,
        *,
        capture: Sequence[str] = (),
        edits: Sequence[Edit] = (),
        stop_after: str | None = None,
        grad: bool = False,
    ) -> Run:
        """Run text or tokens, capturing activations at sites and editing them.

        Edits at one site apply in the order given; what is captured there is the activation after them. With
        `stop_after`, nothing past that site is computed, and `logits` is None. With `grad`, captured activations, the
        edits' values and the logits are part of one autograd graph; otherwise nothing is tracked.
        Raises `UnknownSite`, `EditError`, `PromptError`, all but an ill-fitting edit before anything is computed.
        """
        tokens = self.check_tokens(inputs)
        names = sites.expand(capture, self.sites)
        stop = sites.expand(stop_after, self.sites)[-1] if stop_after else None
        length = tokens.shape[1]
        plan = Pass(Window(0, length, length, length), self.edits_by_site(edits), names, stop, grad)
        logits = self.run_pass(tokens, plan)
        if missed := [name for name in names if name not in plan.captured]:
            raise UnknownSite(f"{missed[0]} comes after {stop}, where the run was to stop")
        return Run(tokens, logits, {name: plan.captured[name] for name in names})

    def edits_by_site(self, edits: Sequence[Edit]) -> dict[str, list[Edit]]:
        """The edits to make at each site. Raises `UnknownSite` and, where an edit would change nothing, `EditError`."""
        plan: dict[str, list[Edit]] = {}
        for edit in edits:
            for site in sites.expand(edit.site, self.sites):
                if site in self._survey.inert:
                    raise EditError(f"{edit.name} at {site}: this model computes it aside, so it can only be captured")
                plan.setdefault(site, []).append(edit)
        return plan

    @contextmanager
    def holding(self, edits: Sequence[Edit]) -> Iterator[None]:
        """Within the context, these edits are made in every run of the model, before the run's own.

        Everything that takes a model then takes it so changed, with heads knocked out, say. As a run may be taken up
        in the middle, positions should count back from the end. Raises as `run` does.
        """

        def visit(site: str, changes: Sequence[Edit], value: Tensor) -> Tensor:
            length = value.shape[sites.axes(site).position]
            for edit in changes:
                value = edit.apply(value, site, Window(0, length, length, length))
            return value

        visits = {site: partial(visit, site, changes) for site, changes in self.edits_by_site(edits).items()}
        with hooked(self._survey.points, visits):
            yield

    def run_pass(
        self, tokens: Int[Tensor, "batch pos"], plan: Pass, cache: DynamicCache | None = None
    ) -> Tensor | None:
        """One forward pass over checked tokens; its logits, or None if it was stopped at a site."""
        with nullcontext() if plan.grad else torch.no_grad(), hooked(self._survey.points, plan.visits()):
            try:
                return self._forward(tokens, cache)
            except Stop:
                return None

    def _forward(self, tokens: Int[Tensor, "batch pos"], cache: DynamicCache | None = None) -> Tensor:
        if not isinstance(self.bridge.original_model, PreTrainedModel):
            return self.bridge(tokens)
        return self.bridge(tokens, past_key_values=cache, use_cache=cache is not None)

    def generate(
        self,
        prompt: Inputs,
        *,
        max_new_tokens: int = 32,
        edits: Sequence[Edit] = (),
        seed: int = 0,
        temperature: float | int = 1.0,
        top_k: int | None = None,
        top_p: float | int | None = None,
        stop_at_eos: bool = True,
    ) -> Generation:
        """Continue one prompt, with edits in force at the prompt and at every generated position.

        An edit's position is a position in the prompt and its continuation together; a negative one counts back from
        the end of the prompt. Temperature 0 takes the likeliest token. Ends early at an end-of-sequence token (unless
        told not to) or when the context is full. Raises as `run` does.
        """
        tokens = self.check_tokens(prompt)
        if len(tokens) != 1:
            raise PromptError(f"generate continues one prompt, and was given {len(tokens)}; see generate_batch")
        sampling = Sampling(temperature, top_k, top_p)
        return self._generate(tokens, max_new_tokens, edits, [seed], sampling, stop_at_eos)[0]

    def generate_batch(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = 32,
        edits: Sequence[Edit] = (),
        seed: int = 0,
        temperature: float | int = 1.0,
        top_k: int | None = None,
        top_p: float | int | None = None,
        stop_at_eos: bool = True,
        batch_size: int = 64,
    ) -> list[Generation]:
        """Continue many prompts, up to `batch_size` of one length at a time, and otherwise as `generate` does.

        Prompt i draws with the seed `seed + i`, so its text is that of `generate(prompts[i], seed=seed + i)`, whatever
        stands beside it (but where rounding, which a batch's size decides, parts two tokens that are equally likely).
        """
        if batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; it must be 1 or more")
        rows = [self.check_tokens(prompt)[0] for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
        sampling = Sampling(temperature, top_k, top_p)
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(number)
        done: dict[int, Generation] = {}
        for group in by_length.values():
            for start in range(0, len(group), batch_size):
                numbers = group[start : start + batch_size]
                tokens = torch.stack([rows[number] for number in numbers])
                seeds = [seed + number for number in numbers]
                texts = self._generate(tokens, max_new_tokens, edits, seeds, sampling, stop_at_eos)
                done.update(zip(numbers, texts, strict=True))
        return [done[number] for number in range(len(rows))]

    def _generate(
        self,
        prompts: Int[Tensor, "batch pos"],
        max_new_tokens: int,
        edits: Sequence[Edit],
        seeds: Sequence[int],
        sampling: Sampling,
        stop_at_eos: bool,
    ) -> list[Generation]:
        if max_new_tokens < 0:
            raise SettingError(f"max_new_tokens is {max_new_tokens}; it must be 0 or more")
        n_prompt = prompts.shape[1]
        wanted = n_prompt + max_new_tokens
        limit = min(wanted, self.info.n_ctx)
        step = self._stepper(self.edits_by_site(edits), n_prompt, limit)
        eos = self._eos() if stop_at_eos else frozenset()
        rows = extend(step, prompts, limit=limit, sampling=sampling, seeds=seeds, eos=eos)
        return [self._generation(row, n_prompt, wanted, eos) for row in rows]

    def _generation(self, tokens: Int[Tensor, " pos"], n_prompt: int, wanted: int, eos: frozenset[int]) -> Generation:
        if len(tokens) > n_prompt and int(tokens[-1]) in eos:
            ended = "eos"
        else:
            ended = "length" if len(tokens) == wanted else "context"
        return Generation(tokens, self.to_string(tokens) if self.tokenizer is not None else None, n_prompt, ended)

    def _stepper(self, plan: dict[str, list[Edit]], n_prompt: int, limit: int):
        """A function from the newest tokens to the logits at the last, which remembers the keys and values before."""
        native = not isinstance(self.bridge.original_model, PreTrainedModel)
        cache = None if native else DynamicCache(config=self.bridge.original_model.config)
        seen: list[Tensor] = []

        def step(new: Int[Tensor, "batch pos"], start: int) -> Float[Tensor, "batch d_vocab"]:
            if native:  # it keeps no keys and values, so every step computes the whole sequence
                seen.append(new)
                new, start = torch.cat(seen, dim=1), 0
            window = Window(start, start + new.shape[1], n_prompt, limit)
            return self.run_pass(new, Pass(window, plan), cache)[:, -1]

        return step

    def _eos(self) -> frozenset[int]:
        config = getattr(self.bridge.original_model, "generation_config", None)
        stated = getattr(config, "eos_token_id", None)
        if stated is None:
            stated = self.tokenizer.eos_token_id if self.tokenizer is not None else None
        return frozenset(stated if isinstance(stated, list) else [] if stated is None else [stated])

    # Reading out

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Logits of a residual stream: final norm, unembedding, and soft cap where the model has one (Gemma 2).

        Of the last `hook_resid_post` these are the model's own logits. Raises `ModelError` for an architecture whose
        logits are made otherwise.
        """
        if not self._unembeds_exactly:
            raise ModelError(f"the logits of {self.info.architecture} are not its final norm and unembedding alone")
        return self._unembed(resid)

    def _unembed(self, resid: Tensor) -> Tensor:
        logits = self.bridge.unembed(self.bridge.ln_final(resid))
        cap = self.bridge.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap and cap > 0 else logits

    @cached_property
    def _unembeds_exactly(self) -> bool:
        last = f"blocks.{self.info.n_layers - 1}.hook_resid_post"
        run = self.run(torch.tensor([[0, 1]]), capture=[last])
        return torch.allclose(self._unembed(run[last]), run.logits, rtol=1e-3, atol=1e-4)


def _ids(tokens: Int[Tensor, " pos"] | Sequence[int]) -> list[int]:
    return [int(token) for token in tokens]
