"""METEOR 1.5 for English in plain Python: the figures of the Java program that COCO's evaluation runs.

M. Denkowski, A. Lavie: Meteor Universal: Language Specific Translation Evaluation for Any Target Language. WMT 2014,
https://aclanthology.org/W14-3348
"""
