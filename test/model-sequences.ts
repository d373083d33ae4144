import fc from 'fast-check'

// The number and the selection of sequences. A failure prints how to repeat it.
const { MODEL_RUNS, MODEL_SEED, MODEL_PATH } = process.env

/** A step. With `turns`, the event loop turns after it, and the test compares everything with the model. */
export type TurnOf<Step> = { step: Step; turns: boolean }

/** An fc.record of objects with Object.prototype, which print better. */
export const record = <T>(model: { [Key in keyof T]: fc.Arbitrary<T[Key]> }) =>
  fc.record(model, { noNullPrototype: true })

type Steps = Record<string, fc.Arbitrary<object>>
type StepOf<All extends Steps> = All[keyof All] extends fc.Arbitrary<infer Step> ? Step : never

/** Sequences of these steps, weighted by frequency. */
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

/** The number of sequences of a test: `share` is a fraction of `MODEL_RUNS`, or of `runs` if that is not set. */
export interface Extent {
  file: string
  runs: number
  share: number
}

/** Calls `run` with random arguments. A failure prints the shortest failing ones, and the command that repeats them. */
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
    `run ${numRuns}, shrunk ${numShrinks} times:${sequence}\n${(cause as Error)?.stack}\nRepeat with: ${again}\n`,
  )
}
