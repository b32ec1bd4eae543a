"""Every setting, once: the command line, the environment, the YAML file and the documents are read off these fields."""

from app.settings.keys_file import AccessKey
from app.settings.knobs import SettingsError
from app.settings.loading import load_settings
from app.settings.model import MODEL_KNOBS, SAMPLE_MODEL, ModelSpec
from app.settings.server import SERVER_KNOBS, Settings
from app.settings.types import ConfigName, MemorySize, ModelType

__all__ = [
    "MODEL_KNOBS",
    "SAMPLE_MODEL",
    "SERVER_KNOBS",
    "AccessKey",
    "ConfigName",
    "MemorySize",
    "ModelSpec",
    "ModelType",
    "Settings",
    "SettingsError",
    "load_settings",
]
