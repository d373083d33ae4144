// Prints the number of imports between the folders of src/, and the imports that violate the layering:
// node scripts/wings.mjs [directory], by default src/. `npm run lint` fails on each violation.
import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from './steps.mjs'

/** The layers, from bottom to top. Folders of the same layer do not import each other. */
const layers = [['core'], ['peek'], ['accept'], ['serve', 'handover'], ['inherit'], ['run'], ['.']]

const layerOf = (wing) => layers.findIndex((wings) => wings.includes(wing))

/** Returns all imports between source files, including type imports. */
function importsIn(directory) {
  const files = readdirSync(directory, { recursive: true }).filter((file) => file.endsWith('.ts'))
  return files.flatMap((from) => {
    const text = readFileSync(join(directory, from), 'utf8')
    const paths = [...text.matchAll(/(?:from|import) '(\.[^']+)\.js'/g)].map(([, path]) => path)
    return [...new Set(paths)].map((path) => ({ from, to: `${normalize(join(dirname(from), path))}.ts` }))
  })
}

/** Returns the first import cycle, if there is one. */
function circle(imports) {
  const done = new Set()
  const visit = (file, path) => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file]
    if (done.has(file)) return undefined
    for (const { from, to } of imports) {
      const found = from === file ? visit(to, [...path, file]) : undefined
      if (found) return found
    }
    done.add(file)
    return undefined
  }
  return imports.reduce((found, { from }) => found ?? visit(from, []), undefined)
}

/** Describes the imports that violate the layering. */
export function wrongImports(directory) {
  const imports = importsIn(directory)
  const wrong = imports
    .map(({ from, to }) => ({ from, to, wings: [dirname(from), dirname(to)] }))
    .filter(({ wings: [above, below] }) => above !== below && layerOf(above) <= layerOf(below))
    .map(({ from, to }) => `${from} imports ${to}, which is not in a lower layer`)
  const unplaced = [...new Set(imports.map(({ from }) => dirname(from)))].filter((wing) => layerOf(wing) < 0)
  const files = circle(imports)
  return [
    ...wrong,
    ...unplaced.map((wing) => `${wing}/ is missing in the layers of scripts/wings.mjs`),
    ...(files ? [`import cycle: ${files.join(', ')}`] : []),
  ]
}

function show(directory) {
  const counts = new Map()
  for (const { from, to } of importsIn(directory)) {
    const row = `${dirname(from)} ${dirname(to)}`
    counts.set(row, (counts.get(row) ?? 0) + 1)
  }
  const name = (wing) => (wing === '.' ? basename(directory) : wing)
  const found = new Set([...counts.keys()].flatMap((row) => row.split(' ')))
  const wings = [...layers.flat().reverse(), ...found].filter(
    (wing, i, all) => found.has(wing) && all.indexOf(wing) === i,
  )
  const width = Math.max(...wings.map((wing) => name(wing).length)) + 2
  const cells = (cell) => wings.map((wing) => String(cell(wing)).padStart(width)).join('')
  console.log(`${'imports'.padEnd(width)}${cells(name)}`)
  for (const from of wings) {
    console.log(`${name(from).padEnd(width)}${cells((to) => counts.get(`${from} ${to}`) ?? '-')}`)
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const directory = process.argv[2] ?? join(root, 'src')
  show(directory)
  for (const each of wrongImports(directory)) console.log(each)
}
