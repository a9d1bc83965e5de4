"""Published ways of making attacks from live pictures, written anew to be compared with the attack simulator.

* ``fas_aug``: R. Cai, C. Soh, Z. Yu, H. Li, W. Yang, A. Kot, "Towards Data-Centric Face Anti-Spoofing: Improving
  Cross-domain Generalization via Physics-based Data Synthesis", IJCV 2024 (arXiv 2409.03501).
* ``spoofing_clues``: X. He et al., "Joint Physical-Digital Facial Attack Detection Via Simulating Spoofing Clues",
  CVPR Workshops 2024 (arXiv 2404.08450).

Definitions and ranges are those of the papers' released programs, which say more than the papers; where an operator
needs files that cannot be had under a free licence (press profiles, photographs of textures) it is rebuilt from
published numbers, and its docstring says so. ``python -m benchmarks.rivals --help`` makes a sample set.
"""
