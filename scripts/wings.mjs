// Shows the layers of src/: how many imports run from each folder to each other one, and what breaks the order.
// node scripts/wings.mjs [directory], a directory in the form of src/; `npm run lint` fails on what it finds.
import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from './steps.mjs'

/** From the bottom to the top. The folders of one line stand side by side and do not import each other. */
const layers = [['core'], ['peek'], ['accept'], ['serve', 'handover'], ['.']]

const layerOf = (wing) => layers.findIndex((wings) => wings.includes(wing))

/** Every import of one source file by another, type imports included. */
function importsIn(directory) {
  const files = readdirSync(directory, { recursive: true }).filter((file) => file.endsWith('.ts'))
  return files.flatMap((from) => {
    const text = readFileSync(join(directory, from), 'utf8')
    const paths = [...text.matchAll(/(?:from|import) '(\.[^']+)\.js'/g)].map(([, path]) => path)
    return [...new Set(paths)].map((path) => ({ from, to: `${normalize(join(dirname(from), path))}.ts` }))
  })
}

/** The first circle of files that import each other, if there is one. */
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

/** What breaks the order of the layers, as sentences. */
export function wrongImports(directory) {
  const imports = importsIn(directory)
  const wrong = imports
    .map(({ from, to }) => ({ from, to, wings: [dirname(from), dirname(to)] }))
    .filter(({ wings: [above, below] }) => above !== below && layerOf(above) <= layerOf(below))
    .map(({ from, to }) => `${from} imports ${to}, which is not in a wing below it`)
  const unplaced = [...new Set(imports.map(({ from }) => dirname(from)))].filter((wing) => layerOf(wing) < 0)
  const files = circle(imports)
  return [
    ...wrong,
    ...unplaced.map((wing) => `${wing}/ is not among the layers of scripts/wings.mjs`),
    ...(files ? [`these files import each other: ${files.join(', ')}`] : []),
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
