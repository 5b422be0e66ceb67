/**
 * The style of the page: light and dark, from phones to wide screens.
 */
export const style = `
:root { --line: #d5d8dd; --soft: #f4f5f7; --text: #1b1f24; --dim: #59636e; --back: #fff; --bad: #b3261e; --warn: #8a5a00; --good: #1a6e34; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a4048; --soft: #1f242b; --text: #e6e9ed; --dim: #a3adb8; --back: #14181d; --bad: #ff8a80; --warn: #f0b849; --good: #7bd88f; --link: #8ab4f8; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 20px; padding: 12px 20px; border-bottom: 1px solid var(--line); }
h1 { font-size: 20px; margin: 0; }
h2 { font-size: 17px; margin: 0 0 8px; }
nav { display: flex; flex-wrap: wrap; gap: 2px 14px; }
a { color: var(--link); }
.skip { position: absolute; left: -9999px; }
.skip:focus { left: 8px; top: 8px; background: var(--back); padding: 6px; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
main { padding: 0 20px 40px; max-width: 1280px; }
section { padding: 18px 0 4px; }
#status { margin: 0; color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--dim); padding-bottom: 4px; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
th { font-weight: 600; color: var(--dim); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.wide { white-space: normal; min-width: 16em; overflow-wrap: anywhere; }
.up, .running, .resolved { color: var(--good); }
.degraded, .paused, .restarting, .draining, .starting, .medium, .warning { color: var(--warn); }
.down, .stopped, .firing, .critical, .high, .bad { color: var(--bad); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: 6px; padding: 6px 10px; margin: 6px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: 6px 8px; margin: 4px 0; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.4 ui-monospace, monospace; }
button { font: inherit; padding: 3px 12px; border: 1px solid var(--line); border-radius: 5px; background: var(--soft); color: var(--text); cursor: pointer; }
button:disabled { opacity: .5; cursor: default; }
input { font: inherit; padding: 4px 8px; border: 1px solid var(--dim); border-radius: 5px; background: var(--back); color: var(--text); max-width: 100%; width: 28em; }
dialog { border: 1px solid var(--line); border-radius: 8px; background: var(--back); color: var(--text); max-width: min(34em, 92vw); }
#trend { margin-bottom: 8px; }
.dim { color: var(--dim); }
@media (max-width: 640px) { main, header { padding-left: 12px; padding-right: 12px; } }
`
