/** Bytes that grow while values are written. One for each process: encoders run to their end before another starts. */
export class Sink {
  buffer: Buffer = Buffer.allocUnsafeSlow(8 * 1024)
  at = 0

  /** Makes room for more bytes, and returns where they go. */
  reserve(count: number): number {
    const start = this.at
    if (start + count > this.buffer.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(start + count, this.buffer.length * 2))
      this.buffer.copy(larger, 0, 0, start)
      this.buffer = larger
    }
    this.at = start + count
    return start
  }

  /** Starts over. */
  reset(): void {
    this.at = 0
  }

  /** A copy of what was written. A large buffer is not kept. */
  done(): Uint8Array {
    const bytes = new Uint8Array(this.buffer.subarray(0, this.at))
    if (this.buffer.length > 1024 * 1024) this.buffer = Buffer.allocUnsafeSlow(8 * 1024)
    return bytes
  }
}
