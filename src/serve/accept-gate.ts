/** Decides, beside the limits of a Serving, whether it may accept. An object for one Serving. */
export interface AcceptGate {
  /**
   * The number of connections that may be accepted now. `asks` is false while another limit allows none. Must not throw.
   */
  room(asks: boolean): number
  /** A connection was accepted, or passed to `add()`. */
  accepted(): void
  /** A connection has ended. */
  released(): void
}
