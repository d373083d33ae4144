import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { until } from '../helpers.js'
import { needs, skip } from '../needs.js'

/** A systemd --user instance with its own units. */
export class ServiceManager {
  readonly #directory: string
  readonly #child: ReturnType<typeof spawn>
  #said = ''

  private constructor() {
    this.#directory = mkdtempSync(join(tmpdir(), 'async-accept-'))
    mkdirSync(this.#units)
    const script = fileURLToPath(new URL('../fixtures/systemd-user.sh', import.meta.url))
    this.#child = spawn('bash', [script, this.#directory], { stdio: ['pipe', 'pipe', 'pipe'] })
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (data) => {
        this.#said += data
      })
    }
  }

  get #units(): string {
    return join(this.#directory, 'units')
  }

  /** Starts systemd, or skips the suite with a reason where that is impossible. */
  static async start(context: Mocha.Context): Promise<ServiceManager> {
    const why = impossible()
    if (why !== undefined) skip(context, why)
    for (const program of ['systemctl', 'nsenter', 'unshare']) needs(context, program, '--version')
    const manager = new ServiceManager()
    const running = () => manager.#systemctl('is-system-running').stdout === 'running\n'
    await until(() => manager.#child.exitCode !== null || manager.#pid !== undefined)
    await untilQueried(() => manager.#child.exitCode !== null || running())
    if (manager.#child.exitCode === null) return manager
    await manager.end()
    return skip(context, `systemd --user does not start here: ${manager.#said}`)
  }

  get #pid(): string | undefined {
    const file = join(this.#directory, 'pid')
    return existsSync(file) ? readFileSync(file, 'utf8').trim() || undefined : undefined
  }

  /** The arguments of nsenter(1) that run systemctl(1). */
  #inside(args: readonly string[]): string[] {
    const inside = ['-t', this.#pid as string, '-m', '-C', 'env', 'XDG_RUNTIME_DIR=/run/user/0']
    return [...inside, 'systemctl', '--user', ...args]
  }

  #systemctl(...args: string[]) {
    return spawnSync('nsenter', this.#inside(args), { encoding: 'utf8' })
  }

  /** Adds units by their file names. */
  units(units: Record<string, string>): void {
    for (const [name, text] of Object.entries(units)) writeFileSync(join(this.#units, name), text)
    this.control('daemon-reload')
  }

  /** Runs systemctl(1). Throws its error output when it fails. */
  control(...args: string[]): string {
    const { status, stdout, stderr } = this.#systemctl(...args)
    if (status !== 0) throw new Error(`systemctl ${args.join(' ')}: ${stderr}`)
    return stdout
  }

  /** As control(), while this process runs on. */
  async controlBeside(...args: string[]): Promise<void> {
    await promisify(execFile)('nsenter', this.#inside(args))
  }

  show(unit: string, property: string): string {
    return this.control('show', unit, '--value', '-p', property).trim()
  }

  /** Resolves when the value of a property is as expected. */
  async shows(unit: string, property: string, expected: string | ((value: string) => boolean)): Promise<void> {
    const isExpected = typeof expected === 'string' ? (value: string) => value === expected : expected
    await untilQueried(() => isExpected(this.show(unit, property)))
  }

  /** Ends systemd and everything that it has started. */
  async end(): Promise<void> {
    this.#child.stdin?.end()
    if (this.#child.exitCode === null) await once(this.#child, 'close')
    rmSync(this.#directory, { recursive: true })
  }
}

/** Like `until`, for a condition that runs systemctl(1). Without pauses, that would take a CPU from systemd. */
function untilQueried(condition: () => boolean): Promise<void> {
  return until(async () => condition() || (await pause(50, false)))
}

function impossible(): string | undefined {
  if (process.getuid?.() !== 0) return 'starting a service manager requires root'
  if (!existsSync('/lib/systemd/systemd')) return 'systemd is not installed'
  const root = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'].find((each) => existsSync(join(each, 'cgroup.procs')))
  if (root === undefined) return 'cgroups version 2 are not available'
  try {
    accessSync(root, constants.W_OK)
  } catch {
    return `${root} is read-only`
  }
  return undefined
}
