import { createHash, createHmac, type Hash, type Hmac } from "node:crypto"

/** The hash that AWS's own implementation is given. */
export class Sha256 {
  private readonly hash: Hash | Hmac

  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    if (secret === undefined) this.hash = createHash("sha256")
    else if (typeof secret === "string") this.hash = createHmac("sha256", secret)
    else if (ArrayBuffer.isView(secret)) {
      this.hash = createHmac("sha256", new Uint8Array(secret.buffer, secret.byteOffset, secret.byteLength))
    } else this.hash = createHmac("sha256", new Uint8Array(secret))
  }

  update(data: string | ArrayBuffer | ArrayBufferView): void {
    this.hash.update(
      typeof data === "string"
        ? data
        : ArrayBuffer.isView(data)
        ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
        : new Uint8Array(data)
    )
  }

  digest(): Promise<Uint8Array> {
    return Promise.resolve(this.hash.digest())
  }

  reset(): void {}
}
