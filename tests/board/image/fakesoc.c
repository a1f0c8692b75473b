// A thermal zone "cpu-thermal" whose temperature (millidegrees) is whatever its parameter `temp` says.
#include <linux/module.h>
#include <linux/thermal.h>

static int temp = 45000;
module_param(temp, int, 0644);

static struct thermal_zone_device *zone;

static int get_temp(struct thermal_zone_device *of, int *value)
{
	*value = temp;
	return 0;
}

static struct thermal_zone_device_ops operations = { .get_temp = get_temp };

static int __init begin(void)
{
	zone = thermal_zone_device_register("cpu-thermal", 0, 0, NULL, &operations, NULL, 0, 0);
	if (IS_ERR(zone))
		return PTR_ERR(zone);
	thermal_zone_device_enable(zone);
	return 0;
}

static void __exit end(void)
{
	thermal_zone_device_unregister(zone);
}

module_init(begin);
module_exit(end);
MODULE_LICENSE("GPL");
