import fc from 'fast-check'

// How many sequences, and which: a failure says how to repeat it.
const { MODEL_RUNS, MODEL_SEED, MODEL_PATH } = process.env

/** `turns`: the event loop turns after the step, and everything is looked at. */
export type TurnOf<Step> = { step: Step; turns: boolean }

/** Of a plain prototype, which prints better. */
export const record = <T>(model: { [Key in keyof T]: fc.Arbitrary<T[Key]> }) =>
  fc.record(model, { noNullPrototype: true })

type Steps = Record<string, fc.Arbitrary<object>>
type StepOf<All extends Steps> = All[keyof All] extends fc.Arbitrary<infer Step> ? Step : never

/** Sequences of these steps, by how often each comes. */
export function sequences<All extends Steps>(
  steps: All,
  weights: Partial<Record<keyof All, number>>,
  maxLength = 15,
): fc.Arbitrary<TurnOf<StepOf<All>>[]> {
  const weighted = Object.entries<number | undefined>(weights).map(([name, weight = 0]) => ({
    weight,
    arbitrary: steps[name] as fc.Arbitrary<StepOf<All>>,
  }))
  return fc.array(record({ step: fc.oneof(...weighted), turns: fc.boolean() }), { maxLength, size: 'max' })
}

/** Of which sequences, and how many: `share` is a part of `MODEL_RUNS`, or of `runs` when that is not set. */
export interface Extent {
  file: string
  runs: number
  share: number
}

/** Runs `run` with random arguments. A failure prints the shortest that fail and the command that repeats them. */
export async function checkSequences<Arguments extends [unknown, ...unknown[]]>(
  context: Mocha.Context,
  { file, runs, share }: Extent,
  args: { [Key in keyof Arguments]: fc.Arbitrary<Arguments[Key]> },
  run: (...args: Arguments) => Promise<void>,
): Promise<void> {
  context.timeout(0)
  const details = await fc.check(fc.asyncProperty<Arguments>(...args, run), {
    numRuns: Math.ceil(Number(MODEL_RUNS ?? runs) * share),
    seed: MODEL_SEED === undefined ? undefined : Number(MODEL_SEED),
    path: MODEL_PATH,
  })
  if (!details.failed) return
  const again =
    `MODEL_SEED=${details.seed} MODEL_PATH=${details.counterexamplePath} ` +
    `npx mocha ${file} --grep '${context.test?.title}'`
  const { errorInstance: cause, counterexample, numRuns, numShrinks } = details
  const [turns, ...before] = [...(counterexample ?? [])].reverse()
  const sequence = [...before.reverse(), ...(turns as unknown[])].map((each) => `\n  ${JSON.stringify(each)}`).join('')
  throw new Error(
    `run ${numRuns}, made shorter ${numShrinks} times:${sequence}\n${(cause as Error)?.stack}\nAgain: ${again}\n`,
  )
}
