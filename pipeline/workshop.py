"""Where candidates are made: build → convert → push → measure, each as a recorded step of the run.

The workshop knows how a step is done, never which comes next; that is `deploy.py`'s.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.bundle import build as build_bundle
from pipeline.candidate import Built, Candidate
from pipeline.convert import (
    HALF_MIN_SQNR_DB,
    MIN_SQNR_DB,
    Agreement,
    converter,
    store_half,
    validate,
)
from pipeline.data.preprocess import apply
from pipeline.data.splits import shuffled
from pipeline.delivery import activate, deliver, next_sequence
from pipeline.device.client import Device
from pipeline.files import write_atomically, write_text
from pipeline.host_memory import keep_freed_memory
from pipeline.host_runtime import runner
from pipeline.measurement import LayerTiming, Measurement
from pipeline.profile import DeviceProfile
from pipeline.prune import SlimmingPlan, slim
from pipeline.recover import (
    TrainResult,
    accuracy,
    batch_statistics,
    images_to_fit,
    recalibrate_batch_norm,
    reconstruct,
    train,
)
from pipeline.replay import Replay
from pipeline.signing import sign_with_own_key
from pipeline.store import Run
from pipeline.task import Recipe, Splits, Task
from pipeline.threads import best_thread_count
from pipeline.variant import Variant
from pipeline.watch import Advance, Watch

T = TypeVar("T")

THREADS_STEP = "choose threads"
MEASURE_STEP = ": measure"  # in the name of each step in which the device measures a whole model
CALIBRATION_SAMPLES = 1024
RECALIBRATION_BATCHES = 10
SMALLEST_BATCH = 32  # whose own mean and variance say something
VALIDATION_SAMPLES = 64


class Workshop:
    """The run, the task, the profile and the device of one deploy, and the steps that use them.

    `part` is the part of the run that the steps belong to; it begins their names and those of their files.
    """

    def __init__(
        self,
        run: Run,
        task: Task,
        profile: DeviceProfile,
        device: Device,
        watch: Watch,
        replay: Replay | None = None,
    ) -> None:
        self.run = run
        self.task = task
        self.profile = profile
        self.device = device
        self.watch = watch
        self.replay = replay
        self.part = ""

    def running(self, variant: Variant) -> Workshop:
        """Return the workshop that converts and measures models as `variant` says."""
        if variant == self.profile.variant:
            return self
        return self._part(str(variant), profile=self.profile.running(variant))

    def cut(self, number: int) -> Workshop:
        """Return the workshop of one cut of several."""
        return self._part(f"cut {number}")

    def _part(self, name: str, **changes: object) -> Workshop:
        _ = self.splits  # loaded once, for all parts
        part = copy.copy(self)
        part.part = self.named(name)
        vars(part).update(changes)
        return part

    def named(self, name: str) -> str:
        """Return the full name of something in this part of the run."""
        return f"{self.part}: {name}" if self.part else name

    def has(self, step: str) -> bool:
        """Tell whether a step of this part is finished."""
        return self.run.has(self.named(step))

    def note(self, name: str, kind: type[T], work: Callable[[], T]) -> T:
        """Do a step that takes no time worth showing."""
        return self.run.step(self.named(name), kind, work)

    def step(self, name: str, kind: type[T], work: Callable[[Advance], T]) -> T:
        """Do one step of the run and record what it gave; a finished one is not done again."""
        full = self.named(name)
        if self.run.has(full):
            return self.run.step(full, kind, partial(_unreachable, full))
        with self.watch.step(full) as advance:
            return self.run.step(full, kind, partial(work, advance))

    @cached_property
    def splits(self) -> Splits:
        """The task's data: train, validation and test, raw."""
        return self.task.load_data()

    def settle_host(self) -> None:
        """Decide once a run how many threads this computer works with, and use them and its memory from here on."""
        keep_freed_memory()
        torch.set_num_threads(self.step(THREADS_STEP, int, lambda _: self._threads()))

    def _threads(self) -> int:
        if self.replay is not None:
            return self.replay.threads(THREADS_STEP)
        model = self.task.build_model().train()
        inputs, targets = next(self.calibration_batches(min(64, len(self.splits.train.targets))))
        return best_thread_count(lambda: _train_step(model, inputs, targets))

    def example(self) -> Tensor:
        """Return one input as the model takes it: shape (1, C, H, W), float32, preprocessed."""
        return apply(self.task.preprocess, self.splits.validation.inputs[:1])

    def calibration_batches(self, batch_size: int = 128) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield preprocessed training batches, the same ones every time, for importance scores."""
        inputs, targets = self.splits.train.inputs, self.splits.train.targets
        order = shuffled(self.splits.train, self.task.seed)
        for chosen in torch.split(order[:CALIBRATION_SAMPLES], batch_size):
            yield apply(self.task.preprocess, inputs[chosen]), targets[chosen]

    # --- models and their files -------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Return the place of a file of this run."""
        return self.run.folder / name

    def save_weights(self, model: nn.Module, name: str) -> None:
        """Write a model's parameters and buffers as safetensors, all or nothing."""
        tensors = {key: value.detach().contiguous().clone() for key, value in model.state_dict().items()}
        write_atomically(self.path(name), lambda place: save_file(tensors, place))

    def model(self, built: Built) -> nn.Module:
        """Build a candidate's model anew from its files, in eval mode."""
        model = self.task.build_model(fresh=True)
        for plan in built.plans:
            model = slim(model, SlimmingPlan.from_json(self.path(plan).read_text()))
        model.load_state_dict(load_file(self.path(built.weights)))
        return model.eval()

    @property
    def halved(self) -> bool:
        """Whether files hold weights in half precision."""
        return self.profile.storage == "fp16"

    def convert(self, model: nn.Module, name: str, plans: tuple[str, ...] = ()) -> Built:
        """Write a model's weights and its converted file."""
        maker, name = converter(self.profile.runtime), _file_name(self.named(name))
        weights, converted = f"{name}.safetensors", f"{name}{maker.suffix}"
        self.save_weights(model, weights)
        maker.convert(model, self.example(), self.path(converted))
        if self.halved:
            store_half(self.path(converted), self.profile.runtime)
        return Built(weights, plans, converted, sum(parameter.numel() for parameter in model.parameters()))

    def slim(self, start: Built, plan: SlimmingPlan, name: str) -> Built:
        """Slim what stands at the start of a cut, recalibrate its batch norms, convert it; nothing is trained."""
        plan_file = f"{_file_name(self.named(name))}.plan.json"
        write_text(self.path(plan_file), plan.to_json())
        return self.convert(self.slimmed(start, plan), name, (*start.plans, plan_file))

    def slimmed(self, start: Built, plan: SlimmingPlan) -> nn.Module:
        """Return a model slimmed by `plan`, its batch norms recalibrated, in eval mode; no file is written."""
        return self.recalibrated(slim(self.model(start), plan))

    def recalibrated(self, model: nn.Module) -> nn.Module:
        """Return a model with its batch norms recalibrated, in place, and in eval mode."""
        recalibrate_batch_norm(
            model,
            split=self.splits.train,
            preprocess=self.task.preprocess,
            seed=self.task.seed,
            batches=RECALIBRATION_BATCHES,
        )
        return model.eval()

    def calibration_loss(self, start: Built, plan: SlimmingPlan) -> float:
        """Return the loss on the calibration batches of a model slimmed by `plan`; see `loss`."""
        return self.loss(slim(self.model(start), plan))

    def loss(self, model: nn.Module) -> float:
        """Return the mean cross-entropy of a model on the calibration batches.

        Each batch norm takes the statistics of the batch at hand; a last batch too small for that is left out.
        """
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        total, count = 0.0, 0
        with torch.inference_mode(), batch_statistics(model):
            for inputs, targets in self.calibration_batches():
                if count and len(targets) < SMALLEST_BATCH:
                    break
                scores = model(inputs.contiguous(memory_format=torch.channels_last))
                total += float(torch.nn.functional.cross_entropy(scores, targets, reduction="sum"))
                count += len(targets)
        return total / count

    def validate(self, built: Built) -> Agreement:
        """Compare the converted file's answers with the PyTorch model's on real inputs."""
        inputs = apply(self.task.preprocess, self.splits.validation.inputs[:VALIDATION_SAMPLES])
        least = HALF_MIN_SQNR_DB if self.halved else MIN_SQNR_DB
        return validate(self.path(built.model), self.profile.runtime, self.model(built), inputs, least)

    # --- the device -------------------------------------------------------------------------------------------

    def candidate(
        self,
        name: str,
        stage: str,
        built: Built,
        *,
        widths: dict[str, int],
        table_ms: float | None = None,
        calibrated_ms: float | None = None,
        kept_importance: float | None = None,
        accuracy: float | None = None,
    ) -> Candidate:
        """Measure and score a built model: two steps of the run; one where its `accuracy` is known."""
        measurement = self.measure(f"{name}{MEASURE_STEP}", built)
        score = accuracy or self.step(f"{name}: score", float, lambda _: self.score(built))
        doubt = f" ({', '.join(measurement.flags)})" if measurement.flags else ""
        self.watch.say(f"{measurement.latency_ms.p50:.4g} ms{doubt}, validation accuracy {score:.2f} %")
        return Candidate(
            self.named(name),
            stage,
            self.profile.variant,
            built,
            widths,
            table_ms,
            calibrated_ms,
            kept_importance,
            measurement,
            validation_accuracy=score,
        )

    def measure(self, step: str, built: Built) -> Measurement:
        """Push a candidate's file and let the device measure it: one step of the run."""
        return self.step(step, Measurement, partial(self._measure, step, self.path(built.model)))

    def _measure(self, step: str, file: Path, advance: Advance) -> Measurement:
        if self.replay is not None:
            return self.replay.measurement(self.named(step), file)
        # Which operators the time went to is what the next prediction learns most from, where the runtime tells.
        protocol = replace(self.profile.measuring, operators=self.profile.runtime == "onnxruntime")
        return self.device.measure(
            file,
            runtime=self.profile.runtime,
            threads=self.profile.threads,
            protocol=protocol,
            on_event=partial(_show_event, advance),
        )

    def time_layers(self, step: str, files: Sequence[Path], advance: Advance) -> tuple[LayerTiming, ...]:
        """Push many small models and let the device time them all in one worker."""
        if self.replay is not None:
            return self.replay.timings(self.named(step), files)
        return self.device.measure_layers(
            files,
            runtime=self.profile.runtime,
            threads=self.profile.threads,
            protocol=self.profile.measuring,
            on_event=partial(_show_event, advance),
        )

    def bundle(self, built: Built, measured: Measurement) -> Bundle:
        """Make the artefact that travels: model, manifest, and one real input with the answer expected for it."""
        golden = self.example()
        return build_bundle(
            self.path("bundle"),
            model_file=self.path(built.model),
            name=self.task.name,
            run=self.run.id,
            runtime=self.profile.runtime,
            threads=self.profile.threads,
            preprocess=self.task.preprocess,
            labels=self.task.labels,
            golden_input=golden.numpy(),
            golden_output=self._answer(built, golden),
            sequence=self.step("number the bundle", int, lambda _: self._sequence()),
            expected_p50_ms=measured.latency_ms.p50,
        )

    def _answer(self, built: Built, golden: Tensor) -> NDArray[np.float32]:
        """Return what a device must answer: PyTorch's answer, or the file's own where its weights were rounded."""
        if self.halved:
            return runner(self.path(built.model), self.profile.runtime)(golden.numpy())
        with torch.inference_mode():
            return np.asarray(self.model(built)(golden).numpy())

    def _sequence(self) -> int:
        return next_sequence(self.device.status().update.sequence)

    def check_and_activate(self, bundle: Bundle, advance: Advance) -> int:
        """Stage a bundle, have the device check it, then activate and commit it; return the generation.

        Raises:
            DeviceError: the device's answers are not the expected ones; what was active stays active.
        """
        signatures = sign_with_own_key(bundle.manifest.to_bytes())
        deliver(self.device, bundle, signatures, tell=partial(_show_phase, advance, 0))
        return activate(self.device, bundle.digest, tell=partial(_show_phase, advance, 1)).generation

    def tidy(self) -> None:
        """Let the device drop files that only this run's measurements needed."""
        self.device.collect(keep=())

    # --- accuracy ---------------------------------------------------------------------------------------------

    def score(self, built: Built) -> float:
        """Return a candidate's accuracy on the validation split, in percent."""
        return accuracy(self.model(built), self.splits.validation, self.task.preprocess)

    def score_test(self, built: Built) -> float:
        """Return a model's accuracy on the test set, in percent; only the end of a deploy may ask."""
        return accuracy(self.model(built), self.splits.test, self.task.preprocess)

    def accuracy_floor(self, baseline_validation: float) -> float:
        """Return the least validation accuracy that the winner must have, in percent.

        A pretrained baseline that has seen the validation examples scores too high on them; the task's published
        accuracy stands in for it then.
        """
        seen = self.task.baseline_saw_validation
        published = self.task.published_accuracy if seen else None
        return self.profile.accuracy.resolve(published or baseline_validation)

    # --- training ---------------------------------------------------------------------------------------------

    def train(
        self, model: nn.Module, recipe: Recipe, checkpoint: Path, advance: Advance, teacher: nn.Module | None
    ) -> TrainResult:
        """Train `model` in place by `recipe`; see `pipeline.recover.train` for the epoch whose weights it ends with."""
        return train(
            model,
            splits=self.splits,
            preprocess=self.task.preprocess,
            recipe=recipe,
            seed=self.task.seed,
            checkpoint=checkpoint,
            teacher=teacher,
            progress=advance,
            validation_seen=self.task.baseline_saw_validation,
        )

    def reconstruct(self, start: Built, fitted: Built, name: str, advance: Advance) -> Built:
        """Fit what a cut left of each layer to what the layer gave at the start of the cut; nothing is trained.

        The images are others than the calibration's, as far as there are enough. By the calibration's it is decided
        whether the model is better so; if not, it stays as it was.
        """
        model, whole = self.model(fitted), self.model(start)
        before = self.loss(model)
        plan = SlimmingPlan.from_json(self.path(fitted.plans[-1]).read_text())
        seed = self.task.seed
        inputs = images_to_fit(self.splits.train, self.task.preprocess, seed)
        layers = reconstruct(model, whole=whole, plan=plan, inputs=inputs, seed=seed, progress=advance)
        after = self.loss(self.recalibrated(model))
        kept = "" if after < before else "; left as they were"
        self.watch.say(f"{layers} layers fitted anew: loss {before:.3g} → {after:.3g}{kept}")
        if kept:
            return fitted
        weights = f"{_file_name(self.named(name))}.safetensors"
        self.save_weights(model, weights)
        return replace(
            fitted, weights=weights
        )  # its converted file is the fitted one's; training writes another

    def recover(self, baseline: Built, fitted: Built, name: str, epochs: int, advance: Advance) -> Built:
        """Train a fitted model with the baseline as its teacher, if there are epochs for it, then convert it."""
        model = self.model(fitted)
        if epochs:
            checkpoint = self.path(f"{_file_name(self.named(name))}.checkpoint.safetensors")
            recipe = replace(self.task.recover_recipe, epochs=epochs)
            self.train(model, recipe, checkpoint, advance, self.model(baseline))
        return self.convert(model.eval(), name, fitted.plans)


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name)


def _train_step(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()


def _show_event(advance: Advance, event: dict[str, object]) -> None:
    done, of = event.get("done"), event.get("of")
    if isinstance(done, int) and isinstance(of, int):
        advance(done=done, of=of, note=str(event.get("phase", "")))


def _show_phase(advance: Advance, done: int, phase: str) -> None:
    advance(done=done, of=2, note=phase)


def _unreachable(name: str) -> T:  # type: ignore[type-var]
    raise AssertionError(f"step {name} is finished and must not run again")
