import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { temporaryDirectory } from './helpers.js'

/** Creates a directory with source files that have these imports. */
function sources(files: Record<string, string[]>): string {
  const directory = temporaryDirectory()
  for (const [file, paths] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, file)), { recursive: true })
    writeFileSync(join(directory, file), paths.map((path) => `import '${path}'\n`).join(''))
  }
  return directory
}

/** The errors that scripts/wings.mjs, which lint runs, prints after its table. */
function wrongImports(directory: string): string[] {
  const { stdout } = spawnSync(process.execPath, ['scripts/wings.mjs', directory], { encoding: 'utf8' })
  return stdout.split('\n').filter((line) => / (imports|is missing in|cycle:)/.test(line))
}

describe('The check of imports between wings', () => {
  it('accepts downward imports', () => {
    const directory = sources({
      'index.ts': ['./serve/a.js'],
      'serve/a.ts': ['../core/b.js', 'node:net'],
      'core/b.ts': [],
    })
    assert.deepEqual(wrongImports(directory), [])
  })

  it('reports an upward or sideways import with both files', () => {
    const directory = sources({ 'core/a.ts': ['../peek/b.js'], 'serve/c.ts': ['../handover/d.js'] })
    assert.deepEqual(wrongImports(directory), [
      'core/a.ts imports peek/b.ts, which is not in a lower layer',
      'serve/c.ts imports handover/d.ts, which is not in a lower layer',
    ])
  })

  it('reports files that import each other', () => {
    const directory = sources({ 'core/a.ts': ['./b.js'], 'core/b.ts': ['./c.js'], 'core/c.ts': ['./b.js'] })
    assert.deepEqual(wrongImports(directory), ['import cycle: core/b.ts, core/c.ts, core/b.ts'])
  })

  it('reports an unknown folder', () => {
    const directory = sources({ 'other/a.ts': ['../core/b.js'] })
    assert.match(wrongImports(directory).join('\n'), /other\/ is missing in the layers/)
  })
})
