import { spawnSync } from 'node:child_process'

/** Skips the test, and says why. */
export function skip(context: Mocha.Context, why: string): never {
  console.log(`      skipped: ${why}`)
  return context.skip()
}

/** What a program prints; skips the test when it does not work. */
export function needs(context: Mocha.Context, program: string, ...args: string[]): string {
  const { error, status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) skip(context, `${program} does not work here: ${error?.message ?? stderr}`)
  return stdout + stderr
}

/** Skips the test where strace may not trace. */
export const needsStrace = (context: Mocha.Context): string =>
  needs(context, 'strace', '-f', '-qq', '-o', '/dev/null', 'true')
