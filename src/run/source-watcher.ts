import { existsSync, type FSWatcher, fstatSync, lstatSync, readdirSync, statSync, watch } from 'node:fs'
import { basename, dirname, join } from 'node:path'
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
  readonly #watchers = new Map<string, { watcher: FSWatcher; identity: string | undefined }>()
  readonly #changed = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #hasFailed = false

  constructor(options: SourceWatcherOptions) {
    this.#options = options
    this.#add('', () => {})
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const { watcher } of this.#watchers.values()) watcher.close()
    this.#watchers.clear()
  }

  /** Watches a directory and those beneath, and calls `onFile` with each file. */
  #add(directory: string, onFile: (path: string) => void): void {
    const full = join(this.#options.directory, directory)
    const identity = identityOf(full)
    try {
      const watcher = watch(full, { persistent: false }, (_event, name) => {
        if (name !== null) this.#onEvent(directory, name)
      })
      watcher.on('error', () => this.#remove(directory))
      this.#watchers.set(directory, { watcher, identity })
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
    for (const [path, { watcher }] of this.#watchers) {
      if (path !== directory && !path.startsWith(`${directory}/`)) continue
      watcher.close()
      this.#watchers.delete(path)
    }
  }

  #onEvent(directory: string, name: string): void {
    const path = join(directory, name)
    const full = join(this.#options.directory, path)
    // inotify(7) also reports the attributes and the end of the watched directory itself, by its own name.
    if (isIgnored(name) || (name === basename(dirname(full)) && !existsSync(full))) return
    const identity = identityOf(full)
    // The attributes of a directory have changed.
    if (identity !== undefined && this.#watchers.get(path)?.identity === identity) return
    // It may be another directory of the same name, so the watches of the old one are of no use.
    this.#remove(path)
    if (identity !== undefined) this.#add(path, (file) => this.#note(file))
    else this.#note(path)
  }

  #note(path: string): void {
    const { directory, pattern } = this.#options
    if (!pattern.test(path) || isOutput(join(directory, path))) return
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

/** What tells a directory from others, also from a later one of its name; undefined if there is none. */
function identityOf(path: string): string | undefined {
  try {
    const stats = lstatSync(path)
    return stats.isDirectory() ? `${stats.ino} ${stats.birthtimeMs}` : undefined
  } catch {
    return undefined
  }
}

/** Whether this process and its workers print to a file. Otherwise their log would reload them for ever. */
function isOutput(path: string): boolean {
  try {
    const { dev, ino } = statSync(path)
    return [1, 2].map((fd) => fstatSync(fd)).some((output) => output.dev === dev && output.ino === ino)
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
