"""How the half-yearly report looks: on A4, on a screen, on a phone; in grey as in colour."""

CSS = """
:root { color: #1f2933; background: #fff; font: 10.5pt/1.5 "Noto Sans", "Noto Sans CJK TC", "Microsoft JhengHei",
  system-ui, sans-serif; }
body { max-width: 182mm; margin: 0 auto; padding: 8mm 4mm; }
h1 { font-size: 20pt; line-height: 1.2; margin: 0 0 2mm; }
h2 { font-size: 13pt; margin: 9mm 0 2mm; border-bottom: 1pt solid #1f2933; break-after: avoid; }
h3 { font-size: 10.5pt; margin: 5mm 0 1mm; break-after: avoid; }
p, ul, dl { margin: 0 0 2.5mm; }
.lead { color: #52606d; }
.note { color: #52606d; font-size: 9pt; }
table { border-collapse: collapse; width: 100%; font-size: 9pt; margin: 1mm 0 3mm; }
caption { text-align: left; font-weight: 600; padding: 1mm 0; }
th, td { padding: 0.8mm 1.5mm; border-bottom: 0.5pt solid #cbd2d9; text-align: left; vertical-align: top; }
thead { display: table-header-group; }
thead th { border-bottom: 1pt solid #1f2933; }
tr { break-inside: avoid; }
section:last-of-type { break-inside: avoid; break-after: avoid; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { overflow-x: auto; }
.summary td:first-child { width: 62%; }
.summary td.n { font-size: 13pt; font-weight: 600; }
.missing { border: 1.5pt solid #1f2933; padding: 2mm 4mm; break-inside: avoid-page; }
.missing h2 { margin-top: 0; border: 0; }
.kept { overflow-wrap: anywhere; }
dt { font-weight: 600; float: left; clear: left; width: 42mm; }
dd { margin: 0 0 0.5mm 44mm; overflow-wrap: anywhere; }
figure { margin: 2mm 0 3mm; break-inside: avoid; }
figcaption { font-size: 9pt; color: #52606d; }
svg { width: 100%; height: auto; display: block; fill: #1f2933; }
.sign { display: grid; grid-template-columns: 1fr 1fr; gap: 10mm; margin-top: 14mm; break-inside: avoid; }
.sign div { border-top: 0.5pt solid #1f2933; padding-top: 1mm; font-size: 9pt; }
@page { size: A4; margin: 16mm 14mm 18mm;
  @bottom-right { content: counter(page) " / " counter(pages); font-size: 8pt; } }
@media print { body { padding: 0; max-width: none; } .wide { overflow: visible; } }
@media (max-width: 600px) { dt { float: none; } dd { margin-left: 0; } }
"""
