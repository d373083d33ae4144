import { type FSWatcher, lstatSync, readdirSync, watch } from 'node:fs'
import { join } from 'node:path'
import type { Fleet } from './fleet.js'
import type { Log } from './log.js'
import type { Member } from './member.js'

// ms without a further change. A branch switch changes many files one after the other.
const quiet = 100

const isIgnored = (name: string) => name === 'node_modules' || name.startsWith('.')

export interface SourceWatcherOptions {
  directory: string
  /** Which paths of files, relative to the directory, are watched. */
  pattern: RegExp
  onChange(paths: string[]): void
  /** Called once, with the first error. Changes in some directories are not seen. */
  onError(error: Error): void
}

/**
 * Watches the files in a directory and in those beneath, except `node_modules` and names that begin with a dot. Each
 * directory has a watch of its own: `recursive` of `fs.watch` would also watch those.
 */
export class SourceWatcher {
  readonly #options: SourceWatcherOptions
  /** By the path of the directory, relative to the first one, which is ''. */
  readonly #watchers = new Map<string, FSWatcher>()
  readonly #changed = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #hasFailed = false

  constructor(options: SourceWatcherOptions) {
    this.#options = options
    this.#add('', () => {})
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const watcher of this.#watchers.values()) watcher.close()
    this.#watchers.clear()
  }

  /** Watches a directory and those beneath, and calls `onFile` with each file. */
  #add(directory: string, onFile: (path: string) => void): void {
    const full = join(this.#options.directory, directory)
    try {
      const watcher = watch(full, { persistent: false }, (event, name) => {
        if (name !== null) this.#onEvent(event, directory, name)
      })
      this.#watchers.set(
        directory,
        watcher.on('error', () => this.#remove(directory)),
      )
      // Read only now, so that no file is created unseen in between.
      for (const entry of readdirSync(full, { withFileTypes: true })) {
        if (isIgnored(entry.name)) continue
        const path = join(directory, entry.name)
        if (entry.isDirectory()) this.#add(path, onFile)
        else onFile(path)
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.#fail(error as Error)
    }
  }

  #remove(directory: string): void {
    if (!this.#watchers.has(directory)) return
    for (const [path, watcher] of this.#watchers) {
      if (path !== directory && !path.startsWith(`${directory}/`)) continue
      watcher.close()
      this.#watchers.delete(path)
    }
  }

  #onEvent(event: string, directory: string, name: string): void {
    if (isIgnored(name)) return
    const path = join(directory, name)
    // The attributes of a directory have changed.
    if (event === 'change' && this.#watchers.has(path)) return
    // It may be another directory of the same name, so the watches of the old one are of no use.
    this.#remove(path)
    if (isDirectory(join(this.#options.directory, path))) this.#add(path, (file) => this.#note(file))
    else this.#note(path)
  }

  #note(path: string): void {
    if (!this.#options.pattern.test(path)) return
    this.#changed.add(path)
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      const paths = [...this.#changed]
      this.#changed.clear()
      this.#options.onChange(paths)
    }, quiet)
  }

  #fail(error: Error): void {
    if (!this.#hasFailed) this.#options.onError(error)
    this.#hasFailed = true
  }
}

function isDirectory(path: string): boolean {
  try {
    return lstatSync(path).isDirectory()
  } catch {
    return false
  }
}

/** Reloads when a file beneath the current directory changes. The returned function ends it. */
export function reloadOnChange(fleet: Fleet<Member>, pattern: RegExp | undefined, log: Log): () => void {
  if (pattern === undefined) return () => {}
  const watcher = new SourceWatcher({
    directory: '.',
    pattern,
    onChange([first, ...others]) {
      log(`${first}${others.length > 0 ? ` and ${others.length} more` : ''} changed`)
      void fleet.reload()
    },
    onError: ({ message }) => log(`does not see all changes: ${message}`, 'bad'),
  })
  return () => watcher.close()
}
