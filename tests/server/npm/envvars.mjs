// What a back end does with environment variables, through the official client. Prints what came of it as JSON.
import { configure, envvars } from "@trigger.dev/sdk";

configure({ requestOptions: { retry: { maxAttempts: 1 } } });

const told = {};
const project = "proj_anything";

async function refusal(ask) {
  try {
    await ask();
  } catch (error) {
    return [error.status, error.body?.variableErrors ?? error.error?.variableErrors ?? error.message];
  }
}

told.created = await envvars.create(project, "dev", { name: "ZONE", value: "eu=1 ✓" });
told.uploaded = await envvars.upload(project, "dev", { variables: { A: "1", B: "2" }, override: true });
told.retrieved = await envvars.retrieve(project, "dev", "ZONE");
told.listed = (await envvars.list(project, "dev")).map((each) => [each.name, each.value]);
told.again = (await refusal(() => envvars.upload(project, "dev", { variables: { A: "3" }, override: false })))[0];
told.badName = (await refusal(() => envvars.create(project, "dev", { name: "1ST", value: "x" })))[0];
told.deleted = await envvars.del(project, "dev", "A");
told.gone = (await refusal(() => envvars.retrieve(project, "dev", "A")))[0];
told.elsewhere = (await refusal(() => envvars.list(project, "prod")))[0];

console.log(JSON.stringify(told));
