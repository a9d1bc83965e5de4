"""Evaluation of trained networks: ``python -m training evaluate`` and ``python -m training results``.

    python -m training evaluate RUN --dev SET --test SET --out DIR

* :mod:`~training.evaluation.runs` reads what ``fit`` wrote; :mod:`~training.evaluation.checks` refuses sets whose
  figures would flatter.
* :mod:`~training.evaluation.tables` scores sets; :mod:`~training.evaluation.measure` asks :mod:`fasedge.metrics`.
* :mod:`~training.evaluation.document` is ``metrics.json``; :mod:`~training.evaluation.report`,
  :mod:`~training.evaluation.plots` and :mod:`~training.evaluation.maps` are for people.
* :mod:`~training.evaluation.published` and :mod:`~training.evaluation.results` lay numbers out like the papers'.
"""
