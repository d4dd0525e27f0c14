"""Words of the Hub's own vocabulary that a recipe or a card may use: licences, languages, tasks, sizes."""

import functools
import importlib.util
import json
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

# The identifiers of https://huggingface.co/docs/hub/repositories-licenses.
LICENCE_WORDS = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
"""
TASK_WORDS = """
    audio-classification audio-to-audio audio-text-to-text automatic-speech-recognition text-to-speech text-to-audio
    voice-activity-detection text-classification text-generation question-answering feature-extraction other
"""  # the Hub's that have to do with sound or words
LICENCES, TASKS = frozenset(LICENCE_WORDS.split()), frozenset(TASK_WORDS.split())
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    return next((word for below, word in SIZES.items() if rows < below), "10M<n<100M")


@functools.cache
def languages() -> frozenset[str]:
    """ISO 639 codes that the Hub knows, as `datasets` lists them; read from its files, since importing it takes seconds."""
    spec = importlib.util.find_spec("datasets")
    assert spec is not None, "a dependency"
    assert spec.origin is not None, "a package with a file of its own"
    file = Path(spec.origin).parent / "utils" / "resources" / "languages.json"
    return frozenset(json.loads(file.read_text(encoding="utf-8"))) - {"code"}


def known_licence(licence: str) -> str:
    """The licence. Raises ValueError where it is none of the Hub's identifiers."""
    if licence not in LICENCES:
        raise ValueError(
            f"{licence!r} is no licence identifier of the Hub; mit, cc-by-4.0 and cc0-1.0 are, or `other` for licences that "
            "differ from clip to clip"
        )
    return licence


def known_language(language: str) -> str:
    """The language. Raises ValueError where it is no ISO 639 code that the Hub knows."""
    if language not in languages():
        raise ValueError(f"{language!r} is no ISO 639 code of a language; en and de are")
    return language


Licence = Annotated[str, AfterValidator(known_licence)]
Language = Annotated[str, AfterValidator(known_language)]
