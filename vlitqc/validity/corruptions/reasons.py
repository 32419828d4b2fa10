"""Why a metric may move although a corruption is not aimed at it."""

from __future__ import annotations

from collections.abc import Mapping

OF_RESPONSES: Mapping[str, str] = {
    "matching_degree": "compares the response with the picture",
    "matching_percentile": "compares the response with the picture",
    "correctness": "judges the response",
    "ifd": "measures how likely the response is",
    "response_diversity": "groups the responses",
    "duplicates": "compares the responses to records of the same picture",
}
"""Other responses, the rest as it was."""

OF_INSTRUCTIONS: Mapping[str, str] = {
    "ifd": "measures what the instruction tells of the response",
    "instruction_complexity": "judges the instruction",
    "granularity_complexity": "parses the instruction",
    "correctness": "judges the response to the instruction",
    "task_diversity": "reads the task off the instruction",
    "task_balance": "reads the task off the instruction",
    "instruction_diversity": "groups the words of the instructions",
    "duplicates": "compares the instructions to records of the same picture",
}
"""Other instructions, the rest as it was."""

OF_PICTURES: Mapping[str, str] = {
    "image_readability": "measures the pixels",
    "visual_complexity": "measures the pixels",
    "matching_degree": "compares the response with the picture",
    "matching_percentile": "compares the response with the picture and with the others",
    "correctness": "judges the response by the picture",
    "object_diversity": "looks for objects in the picture",
    "object_categories": "looks for objects in the pictures",
    "visual_semantic_diversity": "groups the pictures",
    "duplicates": "compares the pictures",
}
"""Other pictures, the rest as it was."""


def without(reasons: Mapping[str, str], *metrics: str) -> dict[str, str]:
    """The reasons of the other metrics: those named are targets, or do not move."""
    return {name: why for name, why in reasons.items() if name not in metrics}
