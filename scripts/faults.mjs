// Runs the tests that make system calls and allocations fail, with an addon built for that purpose:
// node scripts/faults.mjs [mocha options]
// FAULT='<fault that a failed test has printed>' runs only that fault.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { root } from './steps.mjs'
import { variant } from './variants.mjs'

const directory = mkdtempSync(join(tmpdir(), 'async-accept-'))
const note = join(directory, 'note')
const env = {
  ...process.env,
  ASYNC_ACCEPT_ADDON: variant('faults', { variables: { faults: 1 } }),
  FAULTS_NOTE: note,
}
const mocha = ['node_modules/mocha/bin/mocha.js', 'test/faults/*.faults.ts', ...process.argv.slice(2)]
const { status, error } = spawnSync(process.execPath, mocha, { cwd: root, stdio: 'inherit', env })
if (error) throw error
// After a crash, this file is the only record of the injected fault.
if (status !== 0 && existsSync(note)) console.error(`The last injected fault: ${readFileSync(note, 'utf8')}`)
rmSync(directory, { recursive: true })
process.exitCode = status === 0 ? 0 : 1
