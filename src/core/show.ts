import { type InspectOptionsStylized, inspect } from 'node:util'

/** The properties that `util.inspect()` shows. */
export type Shown = Record<string, unknown>

/**
 * Determines what `util.inspect()` and `console.log()` show of the instances of a class: its name, and the properties
 * that `shown` returns. Options such as `depth` and `colors` apply to them.
 */
export function showAs<Instance>(
  Class: { prototype: Instance },
  name: string,
  shown: (instance: Instance) => Shown,
): void {
  const value = function (this: Instance, depth: number, options: InspectOptionsStylized): string {
    if (depth < 0) return options.stylize(`[${name}]`, 'special')
    // `depth` is what remains for this object, while options.depth is that of the outermost object.
    return `${name} ${inspect(propertiesOf(this, shown), { ...options, depth })}`
  }
  Object.defineProperty(Class.prototype, inspect.custom, { value, writable: true, configurable: true })
}

// Showing an object must not fail. The prototype of a class and a Proxy have no private fields.
function propertiesOf<Instance>(instance: Instance, shown: (instance: Instance) => Shown): Shown {
  try {
    const entries = Object.entries(shown(instance))
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined))
  } catch {
    return {}
  }
}
