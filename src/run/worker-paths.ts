// The paths that a worker gets from its supervisor, as a prefix that is unique to the supervisor.

export const scoreboardPath = (prefix: string): string => `${prefix}scoreboard`

export const attachmentPath = (prefix: string): string => `${prefix}workers`
