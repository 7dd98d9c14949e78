"""A plan as text."""

from __future__ import annotations

from safe_train.configs.gpus import GPUS, Gpu
from safe_train.estimate.run_estimate import Plan
from safe_train.estimate.speed import ASSUMED, GIB, speed_of, usable_bytes


def format_plan(plan: Plan, gpu: Gpu | None = None) -> str:
    """Parameters, memory, arithmetic, and time on one kind of GPU or on all of them, with what was assumed."""
    kinds = [gpu] if gpu is not None else list(GPUS.values())
    return "\n".join([*_parameters(plan), *_memory(plan), *_work(plan), *_times(plan, kinds), *_assumptions(kinds)])


def _parameters(plan: Plan) -> list[str]:
    settings = plan.config.optimization
    return [
        f"{plan.config.variant}, {plan.config.precision}, batches of {settings.audio_batch_size} audio and "
        f"{settings.vl_batch_size} protected rows, {settings.max_steps} steps",
        _rows(plan),
        f"parameters: {plan.trained:,} trained, {plan.frozen:,} frozen",
    ]


def _rows(plan: Plan) -> str:
    documents = f", {plan.num_documents:,} of them documents" if plan.num_documents else ""
    return (
        f"rows: {plan.num_audio_rows:,} audio; to protect, {plan.num_vl_rows:,} with an image and "
        f"{plan.num_text_rows:,} text-only{documents}"
    )


def _memory(plan: Plan) -> list[str]:
    peaks = {"a step": plan.step.peak} | {f"calibration, {name}": p.peak for name, p in plan.calibrations.items()}
    lines = ["", "memory held between steps, on the device:"]
    lines += [f"  {name:<24}{_size(size):>12}" for name, size in plan.held.items()]
    lines += [f"  {'together':<24}{_size(plan.held_bytes):>12}", "largest sum of live tensors during:"]
    lines += [f"  {name:<24}{_size(peak):>12}" for name, peak in peaks.items()]
    caches = plan.config.data.cache_gib * GIB * (2 if plan.config.retention.teacher_cache else 1)
    return [*lines, f"on the host, caches of features and teacher states: at most {_size(caches)}"]


def _work(plan: Plan) -> list[str]:
    tokens = plan.tokens
    positions = tokens.audio + tokens.vl
    share = 100 * tokens.padding / positions
    lines = ["", f"a step: {plan.step.cost.flops / 1e12:,.4g} TFLOP in matrix products, {positions:,} positions"]
    lines[-1] += f" of which {share:.0f} % are padding"
    lines += [
        f"calibration, {name}: {phase.cost.flops / 1e12:,.4g} TFLOP, {plan.num_calibrations[name]} in the run"
        for name, phase in plan.calibrations.items()
    ]
    if tokens.vl:
        lines.append(
            f"protected rows of a micro-batch: {plan.text_rows_a_batch} of {plan.config.optimization.vl_batch_size} "
            f"text-only; of a step, {tokens.vl:,} positions"
        )
    if plan.num_documents:
        lines.append("the documents of other steps may be longer than those of the step that was run through")
    if plan.vision_is_estimated:
        lines.append("the vision tower was not run, but counted at 2 FLOP a parameter and patch")
    return [*lines, f"rows of a step encoded here in {plan.encoding_seconds:.2f} s"]


def _times(plan: Plan, kinds: list[Gpu]) -> list[str]:
    epoch, precision = plan.steps_an_epoch, plan.config.precision
    titles = ("GPU", "memory", f"peak, {precision}", "bandwidth", "fits", "a step", "the run", "an epoch")
    lines = ["", "".join(f"{title:>14}" for title in titles)]
    for gpu in kinds:
        speed = speed_of(gpu, precision)
        step, run = plan.step_seconds(speed), plan.run_seconds(speed)
        cells = (
            gpu.name,
            f"{gpu.memory / GIB:.0f} GiB",
            f"{gpu.peak[precision] / 1e12:g} TFLOP/s",
            f"{gpu.bandwidth / 1e12:g} TB/s",
            "yes" if plan.peak_bytes <= usable_bytes(gpu) else "no",
            f"{step:.3g} s",
            f"{run / 3600:.3g} h",
            f"{epoch * step / 3600:.3g} h",
        )
        lines.append("".join(f"{cell:>14}" for cell in cells))
    return [*lines, f"an epoch is {plan.num_audio_rows:,} audio rows in {epoch:,} steps"]


def _assumptions(kinds: list[Gpu]) -> list[str]:
    return [
        "",
        f"assumed, as measured on an H100 with a LLaVA of 7 B in bf16: {ASSUMED.matmul:.0%} of the peak in matrix "
        f"products, {ASSUMED.bandwidth:.0%} of the bandwidth in all else,",
        f"  {ASSUMED.seconds_per_operation * 1e6:g} us an operation on the host, {ASSUMED.reserved_bytes / GIB:g} GiB "
        f"and {ASSUMED.fragmentation:.0%} of the rest of the memory unusable",
        f"peaks: {'; '.join(gpu.source for gpu in kinds)}",
        "not counted: evaluation, checkpoints, the encoding of clips (once a clip)",
    ]


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.2f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:,.1f} MiB"
