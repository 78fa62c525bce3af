"""A string that runs a script wherever it is taken for markup, an attribute, or the end of a script."""

EVIL = "<script>window.bad=1</script>\"'></script><img src=x onerror=window.bad=2>&lt;{{7*7}}__proto__"
