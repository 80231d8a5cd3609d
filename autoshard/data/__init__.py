"""Bytes of text files as training data for language models."""

from autoshard.data._corpus import ByteCorpus as ByteCorpus
from autoshard.data._files import SkippedFile as SkippedFile
from autoshard.data._files import standard_library as standard_library
from autoshard.data._files import text_files as text_files
from autoshard.data._sampler import BatchSampler as BatchSampler
from autoshard.data._sampler import split_next_token as split_next_token
