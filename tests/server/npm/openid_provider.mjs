// An OpenID provider that knows some people, whatever their passwords. It prints its address, reads in a line of stdin who its
// client is, and serves until stdin ends.
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'
import Provider from 'oidc-provider'

const people = JSON.parse(process.env.PEOPLE)
const lines = createInterface({ input: process.stdin })
const told = new Promise((resolve) => lines.once('line', (line) => resolve(JSON.parse(line))))
lines.on('close', () => process.exit())
const server = createServer()
server.listen(0, '127.0.0.1', async () => {
  const issuer = `http://127.0.0.1:${server.address().port}`
  console.log(issuer)
  const client = await told
  const provider = new Provider(issuer, {
    clients: [client],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['groups'] },
    pkce: { required: () => true },
    findAccount: (_, id) => people[id] && { accountId: id, claims: () => ({ sub: id, ...people[id] }) },
    async loadExistingGrant(ctx) {
      const { client, session } = ctx.oidc
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId })
      grant.addOIDCScope('openid email profile')
      await grant.save()
      return grant
    },
  })
  server.on('request', provider.callback())
  console.log('ready')
})
