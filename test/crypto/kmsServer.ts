import { SignatureV4 } from "@smithy/signature-v4"
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Sha256 } from "../services/awsSha256.ts"

export const credentials = { accessKeyId: "AKIDEXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" }
export const region = "eu-central-1"
export const keyArn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
export const otherArn = "arn:aws:kms:eu-central-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321"

/** Tells whether AWS's own signer makes the same signature for a request. */
const isSigned = async (request: IncomingMessage, body: string): Promise<boolean> => {
  const given = request.headers.authorization ?? ""
  const names = /SignedHeaders=([^,]+)/.exec(given)?.[1]?.split(";") ?? []
  const time = String(request.headers["x-amz-date"])
  const [year, month, day, hour, minute, second] = time.match(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/)!.slice(1)
  const signer = new SignatureV4({ credentials, region, service: "kms", sha256: Sha256, applyChecksum: false })
  const signed = await signer.sign({
    method: "POST",
    protocol: "http:",
    hostname: "127.0.0.1",
    path: request.url ?? "",
    headers: Object.fromEntries(names.map((name) => [name, String(request.headers[name])])),
    body
  }, {
    signingDate: new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`),
    signableHeaders: new Set(names),
    unsignableHeaders: new Set()
  })
  return ["host", "x-amz-date", "x-amz-target", "content-type"].every((name) => names.includes(name)) &&
    signed.headers["authorization"] === given
}

export type Fault = (response: ServerResponse) => void

export const failsWith = (status: number, type: string, headers: Record<string, string> = {}): Fault => (response) => {
  response.writeHead(status, { "content-type": "application/x-amz-json-1.1", ...headers })
  response.end(
    JSON.stringify({ __type: type, message: "User arn:aws:iam::111122223333:user/secret-name is not welcome" })
  )
}

/** The two actions of AWS KMS, as far as AWS's own client sees: blobs are bound to key and context, signatures are checked. */
export const kmsServer = async () => {
  const masters = new Map([[keyArn, randomBytes(32)], [otherArn, randomBytes(32)]])
  const state = {
    fault: undefined as Fault | undefined,
    calls: [] as Array<string>,
    disabled: new Set<string>(),
    requests: [] as Array<{ readonly headers: IncomingMessage["headers"]; readonly body: string }>
  }
  const contextOf = (context: object = {}) => Buffer.from(JSON.stringify(Object.entries(context).sort()))
  const answer = async (request: IncomingMessage, response: ServerResponse, body: string) => {
    state.requests.push({ headers: request.headers, body })
    const action = String(request.headers["x-amz-target"]).replace("TrentService.", "")
    state.calls.push(action)
    if (state.fault !== undefined) return state.fault(response)
    if (!await isSigned(request, body)) return failsWith(400, "InvalidSignatureException")(response)
    const { CiphertextBlob, EncryptionContext, KeyId, KeySpec } = JSON.parse(body)
    const master = masters.get(KeyId)
    if (master === undefined) return failsWith(400, "NotFoundException")(response)
    if (state.disabled.has(KeyId)) return failsWith(400, "DisabledException")(response)
    const ok = (content: object) => {
      response.writeHead(200, { "content-type": "application/x-amz-json-1.1" })
      response.end(JSON.stringify(content))
    }
    if (action === "GenerateDataKey" && KeySpec === "AES_256") {
      const plain = randomBytes(32)
      const nonce = randomBytes(12)
      const cipher = createCipheriv("aes-256-gcm", master, nonce)
      cipher.setAAD(contextOf(EncryptionContext))
      const blob = Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()])
      return ok({ KeyId, Plaintext: plain.toString("base64"), CiphertextBlob: blob.toString("base64") })
    }
    if (action !== "Decrypt") return failsWith(400, "UnknownOperationException")(response)
    const blob = Buffer.from(CiphertextBlob, "base64")
    try {
      const decipher = createDecipheriv("aes-256-gcm", master, blob.subarray(0, 12), { authTagLength: 16 })
      decipher.setAAD(contextOf(EncryptionContext))
      decipher.setAuthTag(blob.subarray(-16))
      const plain = Buffer.concat([decipher.update(blob.subarray(12, -16)), decipher.final()])
      return ok({ KeyId, Plaintext: plain.toString("base64"), EncryptionAlgorithm: "SYMMETRIC_DEFAULT" })
    } catch {
      return failsWith(400, "InvalidCiphertextException")(response)
    }
  }
  const server = createServer((request, response) => {
    let body = ""
    request.setEncoding("utf8").on("data", (chunk) => (body += chunk)).on("end", () => {
      answer(request, response, body).catch(() => response.destroy())
    })
  })
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  return {
    state,
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => {
      server.closeAllConnections()
      server.close()
    }
  }
}
