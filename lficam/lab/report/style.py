"""The look of the report: a serif text column, quiet tables; light, dark, narrow and printed."""

STYLE = """
:root { --ink: #1b1b1b; --soft: #5f5f5f; --line: #d9d5cc; --bad: #a3271b; --link: #1d4f91; --paper: #fffefb;
  --sans: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --soft: #a9a59d; --line: #45423d; --bad: #ff9c8a; --link: #9dc1f5; --paper: #191817; }
  img { background: #fff; padding: .5rem; border-radius: 4px; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 58rem; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.55 Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Georgia, serif; }
h1, h2, h3 { line-height: 1.2; font-weight: 600; text-wrap: balance; margin: 0 0 .6rem; }
h1 { font-size: 2rem; } h2 { font-size: 1.5rem; } h3 { font: 600 .9rem/1.2 var(--sans); color: var(--ink); }
a { color: var(--link); text-decoration-thickness: .06em; text-underline-offset: .15em; }
.kicker, figcaption, table, .run, .file, .note, summary { font-family: var(--sans); }
.kicker { margin: 0 0 .3rem; font-size: .8rem; letter-spacing: .06em; color: var(--soft); }
.note { font-size: .875rem; color: var(--soft); max-width: 44rem; }
section { margin-top: 3rem; padding-top: 2rem; border-top: 1px solid var(--line); }
figure { margin: 2.2rem 0; }
figcaption { font-size: .875rem; line-height: 1.45; max-width: 44rem; }
figure:not(.table) figcaption { margin-top: .6rem; } .table figcaption { margin-bottom: .6rem; }
img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.35;
  font-variant-numeric: tabular-nums lining-nums;
  border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
th, td { padding: .3rem .55rem; text-align: left; vertical-align: top; white-space: nowrap; font-weight: 400; }
tr > :first-child { padding-left: 0; } tr > :last-child { padding-right: 0; }
thead th { font-weight: 600; border-bottom: .75px solid var(--ink); vertical-align: bottom; }
th.group { font-weight: 600; padding-top: .8rem; } .group a { font-weight: 400; margin-left: .4em; }
.wrap { white-space: normal; min-width: 9rem; max-width: 24rem; overflow-wrap: break-word; }
.number { text-align: right; } .other { color: var(--soft); }
.file { font-size: .8rem; color: var(--soft); } p.file { margin: .4rem 0 0; } .file a { white-space: nowrap; }
summary { cursor: pointer; font-size: .875rem; color: var(--link); padding: .2rem 0; }
.bad, .failed b { color: var(--bad); }
.failed { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem 1rem; overflow-wrap: anywhere; }
.run { margin-top: 2rem; font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
.run dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0 0 .8rem; }
.run p { margin: .2rem 0; } .run dt { font-weight: 600; } .run dd { margin: 0; }
code { font: .95em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; font-size: 1rem; } h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; }
  .run dl { display: block; } .run dd { margin-bottom: .4rem; } }
@media print {
  @page { margin: 16mm; }
  :root { --ink: #000; --soft: #444; --line: #bbb; --bad: #a3271b; --link: inherit; --paper: #fff; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  section { break-before: page; border: 0; margin: 0; padding: 0; } #summary { break-before: auto; margin-top: 1.5rem; }
  a { color: inherit; text-decoration: none; } .file { display: none; }
  .scroll { overflow: visible; } table { font-size: 7pt; } th, td { padding: .15rem .35rem; } figure { margin: 1rem 0; }
  .wrap { min-width: 0; } figcaption { font-size: 8.5pt; max-width: none; }
  img { max-height: 15cm; width: auto; max-width: 88%; padding: 0; }
  #deviations details::details-content { content-visibility: visible; block-size: auto; }
  #deviations summary { display: none; }
  h2, h3, .kicker, .table figcaption, thead, summary { break-after: avoid; }
  figure:not(.table), tr, .failed { break-inside: avoid; } thead { display: table-header-group; } }
"""
