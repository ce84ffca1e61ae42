"""Half a surrogate pair: JSON and file names can hold it, but it is no character; tokenizers and UTF-8 refuse it."""

import re

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
