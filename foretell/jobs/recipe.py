"""A whole recipe: the sections of all parts in one frozen tree, read from TOML and `key=value`. Torch-free."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from foretell.base.settings import Settings, load_settings
from foretell.corpus.config import CorpusSettings
from foretell.data.config import DataSettings
from foretell.evaluation.config import EvaluationSettings
from foretell.generation.config import GenerationSettings
from foretell.jobs.recipes import find
from foretell.models.settings import ModelSettings
from foretell.tokenizers.config import TokenizerSettings
from foretell.training.config import OptimizerSettings, ScheduleSettings, TrainingSettings


class Recipe(Settings):
    """Everything that a run is told; the resolved one travels with every run and checkpoint."""

    corpus: CorpusSettings = Field(default_factory=CorpusSettings)
    tokenizer: TokenizerSettings = Field(default_factory=TokenizerSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A TOML file or a bundled name, with overrides. Raises SettingError."""
    return load_settings(Recipe, Path(find(name)), overrides)
