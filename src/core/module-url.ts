import { pathToFileURL } from 'node:url'

/** The URL of this file, or of the bundle that contains it. Bundles in the format of CommonJS have no `import.meta.url`. */
export const moduleUrl: string = import.meta.url ?? pathToFileURL(__filename).href
