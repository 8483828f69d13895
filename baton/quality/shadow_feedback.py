"""Feedback on a shadow: corrections of requests that the champion answered and the shadow ran, judged for both versions.

Nobody sees a shadow's answers, but a correction of the champion's answer says what was right, and so judges both.
"""

from __future__ import annotations

from datetime import datetime

from baton.config.model_settings import ModelSettings
from baton.quality.live import correctable, scored
from baton.quality.trials import TrialFeedback
from baton.store.records import ModelVersion
from baton.store.registry import Registry


def shadow_feedback(
    registry: Registry,
    settings: ModelSettings,
    shadow: ModelVersion,
    champion: ModelVersion,
    window: int,
    *,
    since: datetime | None = None,
) -> TrialFeedback:
    """Return what at most ``window`` corrections say of both versions, on the same inputs, given ``since`` then.

    Answers are read and scored as for live quality (`baton.quality.live`), each by the labels of its version; a pair counts if
    both can be scored. ``wrong`` counts the pairs on which only the shadow is wrong, ``champion_wrong`` those on which only the
    champion is, and both F1 are over all pairs.

    This fits the e-value of `baton.quality.trials.complaint` with a share of 0.5. Pairs on which both are right or both are
    wrong say nothing about which is better. If the shadow is no worse, each of the other pairs is against it with probability
    0.5 at most, which is the null hypothesis of McNemar's test (1947, «Note on the sampling error of the difference between
    correlated proportions or percentages»).

    The choice of what is corrected saw the champion's answers only. Corrections of errors alone cannot speak against a shadow:
    the champion is wrong on all of their pairs. Confirmations of right answers alone could only speak against it, also if it is
    no worse: `complaint` leaves pairs out of account until the champion was wrong in some. The promise of the e-value needs
    corrections whose choice does not depend on the answer.
    """
    mine, champions = (settings.make_task(version.lineage["labels"]) for version in (shadow, champion))
    outputs, champion_outputs, examples = [], [], []
    for pair in registry.predictions.corrected_pairs(settings.name, champion.number, shadow.number, window, since):
        item, right = pair.answer.input, pair.correction.example
        read = correctable(mine, item, pair.shadow_output, right)
        champion_read = correctable(champions, item, pair.answer.output, right)
        if read is not None and champion_read is not None:
            outputs.append(read[0])
            champion_outputs.append(champion_read[0])
            examples.append(read[1])
    if not examples:
        return TrialFeedback(pairs=0)
    metrics, is_right = scored(mine, outputs, examples)
    champion_metrics, champion_is_right = scored(champions, champion_outputs, examples)
    return TrialFeedback(
        wrong=int((champion_is_right & ~is_right).sum()),
        champion_wrong=int((is_right & ~champion_is_right).sum()),
        f1=float(metrics[mine.metric]),
        champion_f1=float(champion_metrics[champions.metric]),
        pairs=len(examples),
        champion_errors=int((~champion_is_right).sum()),
    )
