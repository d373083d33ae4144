// Percentiles as an SVG, readable on light and dark backgrounds.
const width = 760
const height = 460
const left = 70
const right = 730
const top = 96
const bottom = 400

// Colours from the palette of Okabe and Ito, which is safe for red-green colour blindness. The dashes are for print.
const strokes = [
  { light: '#0072b2', dark: '#56b4e9', dash: 'none' },
  { light: '#d55e00', dark: '#e69f00', dash: '7 3' },
  { light: '#a0527f', dark: '#cc79a7', dash: '2 3' },
  { light: '#00795a', dark: '#2fc79a', dash: '10 3 2 3' },
]

const ticksX = [0, 50, 90, 99, 99.9]
const least = 0.1
const ticksY = [0.1, 1, 10, 100]

// A logarithmic scale of rarity: each tenfold step (90 %, 99 %, 99.9 %) has the same width.
const x = (percent) => left + ((right - left) * -Math.log10(1 - percent / 100)) / 3

const style = () => {
  const rules = (mode, ink, ground, grid) =>
    [
      `svg { background: ${ground}; font: 13px system-ui, sans-serif; }`,
      `text { fill: ${ink}; } .grid { stroke: ${grid}; }`,
      ...strokes.map((stroke, i) => `.c${i} { stroke: ${stroke[mode]}; }`),
    ].join(' ')
  return [
    rules('light', '#1f2328', '#ffffff', '#d8dee4'),
    `@media (prefers-color-scheme: dark) { ${rules('dark', '#e6edf3', '#0d1117', '#30363d')} }`,
  ].join('\n')
}

/** `curves`: at most four of { name, points: [percent, ms][] }. */
export function percentilePlot({ title, curves }) {
  const most = Math.max(100, ...curves.flatMap(({ points }) => points.map(([, ms]) => ms)))
  const y = (ms) => {
    const share = Math.log10(Math.max(ms, least) / least) / Math.log10(most / least)
    return bottom - (bottom - top) * share
  }
  const text = (at, [px, py], anchor = 'middle') => `<text x="${px}" y="${py}" text-anchor="${anchor}">${at}</text>`
  const line = ([x1, y1, x2, y2], attributes) =>
    `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke-width="1" ${attributes}/>`
  const coordinate = (value) => value.toFixed(1)
  let next = left
  const legend = curves.flatMap(({ name }, i) => {
    const at = next
    next += 62 + 7 * name.length
    const drawn = `class="c${i}" stroke-width="2.5" stroke-dasharray="${strokes[i].dash}"`
    return [`<path d="M${at} 66h28" fill="none" ${drawn}/>`, text(name, [at + 34, 70], 'start')]
  })
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}">`,
    `<style>\n${style()}\n</style>`,
    `<text x="${left}" y="34" font-size="17">${title}</text>`,
    ...legend,
    ...ticksX.flatMap((tick) => [
      line([coordinate(x(tick)), top, coordinate(x(tick)), bottom], 'class="grid"'),
      text(`${tick} %`, [coordinate(x(tick)), bottom + 20]),
    ]),
    ...ticksY.flatMap((tick) => [
      line([left, coordinate(y(tick)), right, coordinate(y(tick))], 'class="grid"'),
      text(`${tick} ms`, [left - 8, coordinate(y(tick) + 4)], 'end'),
    ]),
    ...curves.map(({ points }, i) => {
      const path = points.map(([percent, ms]) => `${coordinate(x(percent))} ${coordinate(y(ms))}`).join('L')
      const drawn = `class="c${i}" stroke-width="2.5" stroke-dasharray="${strokes[i].dash}"`
      return `<path d="M${path}" fill="none" ${drawn}/>`
    }),
    text('share of the quick requests answered within the time', [(left + right) / 2, bottom + 44]),
    '</svg>',
  ].join('\n')}\n`
}
