"""Thirty texts that run a script, or break a page, where they are taken for markup.

Each that runs sets `window.ran`, or opens a dialog.
"""

from __future__ import annotations

RUN = "window.ran=1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT >",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"</style><script>{RUN}</script>",
    f"</title></textarea><script>{RUN}</script>",
    f"--><script>{RUN}</script><!--",
    f"<!--<script>{RUN}",
    f"]]><script>{RUN}</script>",
    f'"><img src=x onerror={RUN}>',
    f"'><img src=x onerror={RUN}>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<math><mtext></mtext><img src=x onerror={RUN}></math>",
    f'" onmouseover={RUN} autofocus onfocus={RUN} x="',
    f"x' onpointerover='{RUN}",
    f"<body onload={RUN}>",
    "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    f"<a href=javascript:{RUN}>x</a>",
    f"javascript:{RUN}",
    f"[x](javascript:{RUN})",
    f"<details open ontoggle={RUN}>",
    "{{ 7 * 7 }}{% for x in y %}${7 * 7}#{7 * 7}<%= 7 * 7 %>",
    "\\u003cscript\\u003ewindow.ran=1\\u003c/script\\u003e",
    f"\u2028{RUN}\u2029</script>",
    f"\u202e<script>{RUN}</script>\u202c",
    f"\x00<script>{RUN}</script>\x1b[2J",
    f"\ud800<img src=x onerror={RUN}>",
)
assert len(PAYLOADS) == len(set(PAYLOADS)) == 30
