// Runs libFuzzer on the native code that parses bytes: node scripts/fuzz.mjs [seconds for each target]
// fuzz/<noun>.cc is the target for native/<noun>.cc. The corpus is kept in node_modules/.cache for the next run.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { program } from './programs.mjs'
import { root } from './steps.mjs'

const seconds = Number(process.argv[2] ?? 20)

for (const file of readdirSync(join(root, 'fuzz'))) {
  const noun = file.replace('.cc', '')
  const path = program(`fuzz-${noun}`, {
    compiler: 'clang++',
    flags: ['-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=all'],
    main: `fuzz/${file}`,
    native: [noun],
  })
  const corpus = join(root, 'node_modules/.cache/fuzz', noun)
  mkdirSync(corpus, { recursive: true })
  const limits = [`-max_total_time=${seconds}`, '-timeout=10', `-artifact_prefix=${corpus}-`]
  const { status, stderr, error } = spawnSync(path, [...limits, corpus], { cwd: root, encoding: 'utf8' })
  if (error) throw error
  if (status !== 0) {
    console.error(stderr)
    const input = /Test unit written to (\S+)/.exec(stderr)?.[1]
    console.error(`fuzz: ${noun} failed${input ? `; repeat with: ${relative('', path)} ${relative('', input)}` : ''}`)
    process.exit(1)
  }
  console.log(`fuzz: ${noun}: ${/#\d+\s+DONE.*/.exec(stderr)?.[0]}`)
}
