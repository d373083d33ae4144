import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { globPattern } from '../../src/run/glob.js'
import { SourceWatcher } from '../../src/run/source-watcher.js'
import { cleanUp, temporaryDirectory, until } from '../helpers.js'

/** Watches a directory that has these files. */
class Watched {
  readonly directory = temporaryDirectory()
  /** The sorted paths of each change. */
  readonly changes: string[][] = []

  constructor(files: readonly string[], glob = '**') {
    for (const file of files) this.write(file)
    const watcher = new SourceWatcher({
      directory: this.directory,
      pattern: globPattern(glob),
      onChange: (paths) => this.changes.push(paths.sort()),
      onError: (error) => assert.fail(error),
    })
    cleanUp(() => watcher.close())
  }

  at(file: string): string {
    return join(this.directory, file)
  }

  write(...files: string[]): void {
    for (const file of files) {
      mkdirSync(dirname(this.at(file)), { recursive: true })
      writeFileSync(this.at(file), 'text')
    }
  }

  /** Resolves with the paths of the next change. */
  async next(): Promise<string[]> {
    await until(() => this.changes.length > 0)
    return this.changes.shift() as string[]
  }
}

describe('SourceWatcher', () => {
  it('reports a file that is written, replaced by a renamed one, or removed', async () => {
    const watched = new Watched(['src/a.js', 'temporary'], 'src/*')
    watched.write('src/a.js')
    assert.deepEqual(await watched.next(), ['src/a.js'])
    renameSync(watched.at('temporary'), watched.at('src/a.js'))
    assert.deepEqual(await watched.next(), ['src/a.js'])
    rmSync(watched.at('src/a.js'))
    assert.deepEqual(await watched.next(), ['src/a.js'])
  })

  it('reports files in new directories, also if they were written before the directory is watched', async () => {
    const watched = new Watched([])
    watched.write('a/b/c.js')
    assert.deepEqual(await watched.next(), ['a/b/c.js'])
    watched.write('a/b/d.js')
    assert.deepEqual(await watched.next(), ['a/b/d.js'])
  })

  it('goes on when directories are removed, created again, and renamed', async () => {
    const watched = new Watched(['a/b/c.js'], '**/*.js')
    rmSync(watched.at('a'), { recursive: true })
    watched.write('a/b/c.js')
    assert.deepEqual(await watched.next(), ['a/b/c.js'])
    watched.write('a/b/d.js')
    assert.deepEqual(await watched.next(), ['a/b/d.js'])
    renameSync(watched.at('a'), watched.at('x'))
    assert.deepEqual(await watched.next(), ['x/b/c.js', 'x/b/d.js'])
    watched.write('x/b/e.js')
    assert.deepEqual(await watched.next(), ['x/b/e.js'])
  })

  it('does not report a directory whose attributes change', async () => {
    const watched = new Watched(['a/b.js'])
    chmodSync(watched.at('a'), 0o700)
    chmodSync(watched.directory, 0o700)
    watched.write('a/b.js')
    assert.deepEqual(await watched.next(), ['a/b.js'])
    watched.write('a/c.js')
    assert.deepEqual(await watched.next(), ['a/c.js'])
  })

  it('reports 1,000 files as one change', async () => {
    const files = Array.from({ length: 1000 }, (_, i) => `${i % 20}/${i}.js`).sort()
    const watched = new Watched(files.slice(500))
    watched.write(...files)
    assert.deepEqual(await watched.next(), files)
    watched.write('last')
    assert.deepEqual(await watched.next(), ['last'])
  })

  it('ignores node_modules, names that begin with a dot, and the targets of symbolic links', async () => {
    const ignored = ['node_modules/a.js', 'src/node_modules/a.js', '.git/a', 'src/.cache/a', '.env']
    const watched = new Watched([...ignored, 'src/a.js'])
    const elsewhere = temporaryDirectory()
    symlinkSync(elsewhere, watched.at('link'))
    assert.deepEqual(await watched.next(), ['link'])
    writeFileSync(join(elsewhere, 'file'), '')
    watched.write(...ignored, 'src/a.js')
    assert.deepEqual(await watched.next(), ['src/a.js'])
  })
})

describe('A glob', () => {
  for (const [glob, yes, no] of [
    ['*.js', ['a.js', '.js'], ['a/b.js', 'a.jsx', 'ajs']],
    ['**/*.js', ['a.js', 'a/b/c.js'], ['a/b.ts']],
    ['src/**', ['src/a', 'src/a/b'], ['src', 'lib/src/a']],
    ['./a?.{js,m{j,t}s}', ['ab.js', 'ab.mjs', 'ab.mts'], ['a.js', 'ab.ms', 'abc.js', 'a/.js']],
    ['a,(b)[c]+$^|\\.js', ['a,(b)[c]+$^|\\.js'], ['a']],
  ] as const) {
    it(`matches whole paths: ${glob}`, () => {
      const pattern = globPattern(glob)
      assert.deepEqual(
        [...yes, ...no].filter((path) => pattern.test(path)),
        yes,
      )
    })
  }
})
